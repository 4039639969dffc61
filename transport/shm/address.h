// Where a holder is reached: an abstract Unix socket, whose name is only visible within one network
// namespace of one running kernel.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <optional>
#include <string>
#include <string_view>

#include "weightcast/result.h"

namespace weightcast::transport::shm {

// "<boot id>.<network namespace>": equal for two processes that see the same abstract sockets.
// Errors: unavailable (/proc is not mounted).
Result<std::string> local_scope();

struct Address {
    std::string scope;
    std::string name;  // of the socket, 32 hexadecimal digits

    // "shm://<scope>/<name>".
    std::string text() const;
    // Nothing if `text` is not what text() makes.
    static std::optional<Address> parse(std::string_view text);
};

struct SocketAddress {
    ::sockaddr_un address{};
    ::socklen_t bytes = 0;
};
SocketAddress socket_address(std::string_view name);

}  // namespace weightcast::transport::shm
