// What a pair of processes could do at best, for the benchmarks to be compared with.
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "perf/transfer/cell.h"
#include "tests/kit/child.h"

namespace weightcast::perf {
namespace {

Result<UniqueFd> make_socket(const std::string& congestion_control) {
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) return system_error(errno, "socket");
    if (!congestion_control.empty() &&
        ::setsockopt(socket.get(), IPPROTO_TCP, TCP_CONGESTION, congestion_control.data(),
                     static_cast<::socklen_t>(congestion_control.size())) != 0) {
        return system_error(Code::invalid_input, errno, "congestion control");
    }
    return socket;
}

// In the child: sends the region round and round to whoever connects.
int send_region(kit::Channel& channel, const Cell& cell) {
    auto arena = make_arena(cell.region_bytes, cell.private_source);
    auto listener = make_socket(cell.congestion_control);
    if (!arena || !listener) return 1;
    ::sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::socklen_t bytes = sizeof address;
    auto* generic = reinterpret_cast<::sockaddr*>(&address);
    const int fd = listener.value().get();
    if (::bind(fd, generic, bytes) != 0 || ::listen(fd, 1) != 0) return 1;
    if (::getsockname(fd, generic, &bytes) != 0) return 1;
    channel.send(std::to_string(ntohs(address.sin_port)));
    const UniqueFd socket(::accept(fd, nullptr, nullptr));
    const auto region = arena.value().bytes();
    for (std::uint64_t sent = 0; sent < cell.total_bytes;) {
        const std::uint64_t offset = sent % cell.region_bytes;
        const std::uint64_t size = std::min(cell.chunk_bytes, cell.region_bytes - offset);
        const ssize_t put = ::send(socket.get(), region.data() + offset, size, MSG_NOSIGNAL);
        if (put <= 0) return 1;
        sent += static_cast<std::uint64_t>(put);
    }
    channel.receive();
    return 0;
}

Result<void> receive_all(int socket, std::span<std::byte> region, const Cell& cell) {
    for (std::uint64_t received = 0; received < cell.total_bytes;) {
        const std::uint64_t offset = received % cell.region_bytes;
        const std::uint64_t size = std::min(cell.chunk_bytes, cell.region_bytes - offset);
        const ssize_t got = ::recv(socket, region.data() + offset, size, 0);
        if (got <= 0) return system_error(errno, "recv");
        received += static_cast<std::uint64_t>(got);
    }
    return success();
}

}  // namespace

Result<void> run_memcpy(const Cell& cell) {
    WEIGHTCAST_TRY(const auto source, make_arena(cell.region_bytes, cell.private_source));
    WEIGHTCAST_TRY(const auto target, make_arena(cell.region_bytes, false));
    const std::uint64_t step = cell.kind == "memcpy-chunks" ? cell.chunk_bytes : cell.region_bytes;
    const double cpu_s = cpu_seconds();
    const TimePoint begin = system_clock().now();
    for (std::uint64_t done = 0; done < cell.total_bytes; done += step) {
        const std::uint64_t offset = done % cell.region_bytes;
        std::memcpy(target.bytes().data() + offset, source.bytes().data() + offset,
                    std::min(step, cell.total_bytes - done));
    }
    print(cell, seconds(system_clock().now() - begin), cpu_seconds() - cpu_s);
    return success();
}

Result<void> run_socket(const Cell& cell) {
    kit::Child sender([&](kit::Channel& channel) { return send_region(channel, cell); });
    WEIGHTCAST_TRY(const auto target, make_arena(cell.region_bytes, false));
    const auto port = sender.channel().receive();
    if (!port) return Error{Code::unavailable, 0, "the sender did not start"};
    WEIGHTCAST_TRY(const auto socket, make_socket(cell.congestion_control));
    ::sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(std::stoul(*port)));
    const double cpu_s = cpu_seconds();
    const TimePoint begin = system_clock().now();
    if (::connect(socket.get(), reinterpret_cast<::sockaddr*>(&address), sizeof address) != 0) {
        return system_error(errno, "connect");
    }
    WEIGHTCAST_CHECK(receive_all(socket.get(), target.bytes(), cell));
    print(cell, seconds(system_clock().now() - begin), cpu_seconds() - cpu_s);
    return success();
}

}  // namespace weightcast::perf
