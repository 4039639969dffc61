// Addresses and sockets of TCP.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "weightcast/result.h"

namespace weightcast {

struct SocketAddress {
    ::sockaddr_storage storage{};
    ::socklen_t bytes = 0;

    ::sockaddr* get() { return reinterpret_cast<::sockaddr*>(&storage); }
    const ::sockaddr* get() const { return reinterpret_cast<const ::sockaddr*>(&storage); }
};

// In host byte order.
std::uint16_t port_of(const SocketAddress& address);
void set_port(SocketAddress& address, std::uint16_t port);

// HOST, HOST:PORT, [IPV6] or [IPV6]:PORT with a numeric host; no port is port 0.
// Errors: invalid_input.
Result<SocketAddress> parse_address(std::string_view text);
// The inverse, always with a port.
std::string format_address(const SocketAddress& address);

// A non-blocking TCP socket without Nagle's delay; an empty congestion control is the system's.
// Errors: invalid_input (no such congestion control), io.
Result<UniqueFd> open_socket(int family, const std::string& congestion_control = {});

struct Listener {
    UniqueFd socket;
    SocketAddress address;  // for peers; a wildcard is replaced by an address of this host
};

// Errors: invalid_input, io.
Result<Listener> listen_on(const std::string& text, const std::string& congestion_control = {});

}  // namespace weightcast
