#include "transport/doctor/line_channel.h"

#include <fmt/core.h>
#include <netdb.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>

#include "base/freer.h"
#include "transport/doctor/peer_wire.h"

namespace weightcast::transport::doctor {
namespace {

Error hung_up() { return {Code::unavailable, 0, "the peer hung up"}; }

Result<UniqueFd> connect_to(const ::addrinfo& target, const std::string& from, TimePoint deadline) {
    WEIGHTCAST_TRY(UniqueFd socket, open_socket(target.ai_family));
    if (!from.empty()) {
        WEIGHTCAST_TRY(const SocketAddress ours, parse_address(from));
        if (::bind(socket.get(), ours.get(), ours.bytes) != 0) {
            return system_error(Code::invalid_input, errno, "cannot connect from " + from);
        }
    }
    if (::connect(socket.get(), target.ai_addr, target.ai_addrlen) == 0) return socket;
    if (errno != EINPROGRESS) return system_error(Code::unavailable, errno, "connect");
    WEIGHTCAST_CHECK(await_ready(socket.get(), POLLOUT, deadline, -1));
    int failed = 0;
    ::socklen_t bytes = sizeof failed;
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &failed, &bytes);
    if (failed != 0) return system_error(Code::unavailable, failed, "connect");
    return socket;
}

}  // namespace

Result<void> await_ready(int fd, short events, TimePoint deadline, int stop_fd) {
    while (true) {
        const auto left =
            std::chrono::ceil<std::chrono::milliseconds>(deadline - system_clock().now());
        if (left.count() <= 0) return Error{Code::timed_out, 0, "the peer does not answer in time"};
        std::array<::pollfd, 2> waited{{{fd, events, 0}, {stop_fd, POLLIN, 0}}};
        const int ready = ::poll(waited.data(), waited.size(),
                                 static_cast<int>(std::min<std::int64_t>(left.count(), 1000)));
        if (ready < 0 && errno != EINTR) return system_error(errno, "poll");
        if (ready <= 0) continue;
        if (waited[1].revents != 0) return Error{Code::cancelled, 0, "stopped"};
        return success();
    }
}

Result<LineChannel> LineChannel::connect(const std::string& host, std::uint16_t port,
                                         const std::string& from, Duration patience) {
    const TimePoint deadline = system_clock().now() + patience;
    ::addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    ::addrinfo* list = nullptr;
    if (const int failed =
            ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list)) {
        return Error{Code::not_found, 0,
                     fmt::format("no host \"{}\": {}", host, ::gai_strerror(failed))};
    }
    const std::unique_ptr<::addrinfo, Freer<::freeaddrinfo>> owner(list);
    Error last{Code::not_found, 0, "it has no address"};
    for (const ::addrinfo* one = list; one != nullptr; one = one->ai_next) {
        auto socket = connect_to(*one, from, deadline);
        if (socket) return LineChannel(std::move(socket).value(), -1);
        last = std::move(socket).error();
    }
    last.message = fmt::format("{}:{}: {}", host, port, last.message);
    return last;
}

Result<void> LineChannel::send(std::string line, Duration patience) {
    const TimePoint deadline = system_clock().now() + patience;
    line += '\n';
    std::string_view rest = line;
    while (!rest.empty()) {
        const ssize_t sent = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (sent > 0) {
            rest.remove_prefix(static_cast<std::size_t>(sent));
        } else if (errno == EAGAIN || errno == EINTR) {
            WEIGHTCAST_CHECK(await_ready(socket_.get(), POLLOUT, deadline, stop_fd_));
        } else {
            return hung_up();
        }
    }
    return success();
}

Result<std::string> LineChannel::receive(Duration patience) {
    const TimePoint deadline = system_clock().now() + patience;
    while (true) {
        const auto end = received_.find('\n');
        if (std::min(end, received_.size()) > kLineBytesMax) {
            return Error{Code::invalid_input, 0,
                         fmt::format("the peer's line is longer than {} bytes", kLineBytesMax)};
        }
        if (end != std::string::npos) {
            std::string line = received_.substr(0, end);
            received_.erase(0, end + 1);
            return line;
        }
        WEIGHTCAST_CHECK(await_ready(socket_.get(), POLLIN, deadline, stop_fd_));
        std::array<char, 4096> block;
        const ssize_t got = ::recv(socket_.get(), block.data(), block.size(), 0);
        if (got > 0) {
            received_.append(block.data(), static_cast<std::size_t>(got));
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            return hung_up();
        }
    }
}

Result<std::string> LineChannel::local_host() const {
    SocketAddress local;
    local.bytes = sizeof local.storage;
    if (::getsockname(socket_.get(), local.get(), &local.bytes) != 0) {
        return system_error(errno, "getsockname");
    }
    std::array<char, NI_MAXHOST> host{};
    if (::getnameinfo(local.get(), local.bytes, host.data(), host.size(), nullptr, 0,
                      NI_NUMERICHOST) != 0) {
        return Error{Code::io, 0, "the local address has no numeric form"};
    }
    return std::string(host.data());
}

}  // namespace weightcast::transport::doctor
