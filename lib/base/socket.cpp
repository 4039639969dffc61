#include "base/socket.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace weightcast {
namespace {

constexpr int kBacklog = 1024;

Error bad_address(std::string_view text) {
    return {Code::invalid_input, 0,
            fmt::format("'{}' is not a numeric HOST, HOST:PORT or [IPV6]:PORT", text)};
}

// Splits at the port; false if the text is malformed.
bool split(std::string_view text, std::string_view& host, std::string_view& port) {
    if (!text.empty() && text.front() == '[') {
        const auto close = text.find(']');
        if (close == std::string_view::npos) return false;
        host = text.substr(1, close - 1);
        port = text.substr(close + 1);
        if (port.empty()) return true;
        if (port.front() != ':' || port.size() == 1) return false;
        port.remove_prefix(1);
        return true;
    }
    const auto colon = text.find(':');
    host = text.substr(0, colon);
    // A second colon is an IPv6 address without brackets.
    if (colon != std::string_view::npos && text.find(':', colon + 1) != std::string_view::npos) {
        host = text;
        return true;
    }
    if (colon == std::string_view::npos) return true;
    port = text.substr(colon + 1);
    return !port.empty();
}

::in_port_t& wire_port_of(SocketAddress& address) {
    if (address.storage.ss_family == AF_INET6) {
        return reinterpret_cast<::sockaddr_in6*>(&address.storage)->sin6_port;
    }
    return reinterpret_cast<::sockaddr_in*>(&address.storage)->sin_port;
}

bool is_wildcard(const SocketAddress& address) {
    if (address.storage.ss_family == AF_INET6) {
        const auto* in6 = reinterpret_cast<const ::sockaddr_in6*>(&address.storage);
        return IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
    }
    return reinterpret_cast<const ::sockaddr_in*>(&address.storage)->sin_addr.s_addr == INADDR_ANY;
}

struct FreeInterfaces {
    void operator()(::ifaddrs* list) const { ::freeifaddrs(list); }
};

// An address of this host that others can use, with the family and port of `bound`.
SocketAddress outward(const SocketAddress& bound) {
    SocketAddress chosen = bound;
    ::ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return chosen;
    const std::unique_ptr<::ifaddrs, FreeInterfaces> owner(list);
    bool found = false;
    for (const ::ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
        if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != bound.storage.ss_family) continue;
        if ((i->ifa_flags & IFF_UP) == 0) continue;
        SocketAddress candidate;
        candidate.bytes = bound.bytes;
        std::memcpy(&candidate.storage, i->ifa_addr, bound.bytes);
        if (bound.storage.ss_family == AF_INET6) {
            const auto* in6 = reinterpret_cast<const ::sockaddr_in6*>(&candidate.storage);
            if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr)) continue;
        }
        const bool loopback = (i->ifa_flags & IFF_LOOPBACK) != 0;
        if (loopback && found) continue;
        chosen = candidate;
        found = true;
        if (!loopback) break;
    }
    SocketAddress port_source = bound;
    wire_port_of(chosen) = wire_port_of(port_source);
    return chosen;
}

}  // namespace

std::uint16_t port_of(const SocketAddress& address) {
    SocketAddress copy = address;
    return ntohs(wire_port_of(copy));
}

void set_port(SocketAddress& address, std::uint16_t port) { wire_port_of(address) = htons(port); }

Result<SocketAddress> parse_address(std::string_view text) {
    std::string_view host;
    std::string_view port;
    if (!split(text, host, port)) return bad_address(text);
    std::uint16_t number = 0;
    if (!port.empty()) {
        const auto parsed = std::from_chars(port.data(), port.data() + port.size(), number);
        if (parsed.ec != std::errc() || parsed.ptr != port.data() + port.size()) {
            return bad_address(text);
        }
    }
    const std::string name(host);
    SocketAddress address;
    auto* in4 = reinterpret_cast<::sockaddr_in*>(&address.storage);
    auto* in6 = reinterpret_cast<::sockaddr_in6*>(&address.storage);
    if (::inet_pton(AF_INET, name.c_str(), &in4->sin_addr) == 1) {
        address.storage.ss_family = AF_INET;
        address.bytes = sizeof *in4;
    } else if (::inet_pton(AF_INET6, name.c_str(), &in6->sin6_addr) == 1) {
        address.storage.ss_family = AF_INET6;
        address.bytes = sizeof *in6;
    } else {
        return bad_address(text);
    }
    set_port(address, number);
    return address;
}

std::string format_address(const SocketAddress& address) {
    const bool six = address.storage.ss_family == AF_INET6;
    char text[INET6_ADDRSTRLEN] = {};
    const void* host =
        six ? static_cast<const void*>(
                  &reinterpret_cast<const ::sockaddr_in6*>(&address.storage)->sin6_addr)
            : &reinterpret_cast<const ::sockaddr_in*>(&address.storage)->sin_addr;
    ::inet_ntop(address.storage.ss_family, host, text, sizeof text);
    return fmt::format("{}{}{}:{}", six ? "[" : "", text, six ? "]" : "", port_of(address));
}

Result<UniqueFd> open_socket(int family, const std::string& congestion_control) {
    UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket) return system_error(errno, "socket");
    const int on = 1;
    if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        return system_error(errno, "setsockopt TCP_NODELAY");
    }
    if (!congestion_control.empty() &&
        ::setsockopt(socket.get(), IPPROTO_TCP, TCP_CONGESTION, congestion_control.data(),
                     static_cast<::socklen_t>(congestion_control.size())) != 0) {
        return system_error(Code::invalid_input, errno,
                            fmt::format("congestion control '{}'", congestion_control));
    }
    return socket;
}

Result<Listener> listen_on(const std::string& text, const std::string& congestion_control) {
    WEIGHTCAST_TRY(SocketAddress address, parse_address(text));
    Listener listener;
    WEIGHTCAST_TRY(listener.socket, open_socket(address.storage.ss_family, congestion_control));
    const int on = 1;
    if (::setsockopt(listener.socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
        return system_error(errno, "setsockopt SO_REUSEADDR");
    }
    if (::bind(listener.socket.get(), address.get(), address.bytes) != 0) {
        return system_error(errno, fmt::format("cannot bind to {}", text));
    }
    if (::listen(listener.socket.get(), kBacklog) != 0) {
        return system_error(errno, fmt::format("cannot listen on {}", text));
    }
    if (::getsockname(listener.socket.get(), address.get(), &address.bytes) != 0) {
        return system_error(errno, "getsockname");
    }
    listener.address = is_wildcard(address) ? outward(address) : address;
    return listener;
}

}  // namespace weightcast
