// Readers that connect out of band.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.h"
#include "transport/verbs/acceptor.h"

namespace weightcast::transport::verbs {
namespace {

constexpr auto kRequestMax = std::chrono::seconds(2);
constexpr std::size_t kUnfinishedMax = 1024;

// A reader whose host is gone is noticed after half a minute.
void keep_alive(int fd) {
    const auto set = [fd](int level, int name, int value) {
        ::setsockopt(fd, level, name, &value, sizeof value);
    };
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 4);
    set(IPPROTO_TCP, TCP_NODELAY, 1);
}

}  // namespace

void Acceptor::accept_all() {
    while (true) {
        UniqueFd socket(
            ::accept4(control_.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!socket) return;
        if (unfinished_ >= kUnfinishedMax) continue;
        keep_alive(socket.get());
        const ConnectionId name = next_name_++;
        ::epoll_event event{};
        event.events = EPOLLIN | EPOLLRDHUP;
        event.data.u64 = name;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket.get(), &event) != 0) continue;
        Connection& connection = connections_[name];
        connection.socket = std::move(socket);
        connection.deadline = system_clock().now() + kRequestMax;
        ++unfinished_;
    }
}

void Acceptor::on_control(ConnectionId name) {
    const auto found = connections_.find(name);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    while (true) {
        // After the request the reader says nothing but that it goes.
        const std::size_t left = kRequestBytes - connection.received;
        std::byte extra{};
        const auto count =
            ::recv(connection.socket.get(),
                   left > 0 ? connection.request.data() + connection.received : &extra,
                   left > 0 ? left : 1, 0);
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (count <= 0 || left == 0) return drop(name);
        connection.received += static_cast<std::size_t>(count);
        if (connection.received == kRequestBytes) {
            on_control_request(name, connection);
            if (!connections_.contains(name)) return;
        }
    }
}

void Acceptor::on_control_request(ConnectionId name, Connection& connection) {
    const std::span<const std::byte> bytes(connection.request);
    const auto hello = decode_hello(bytes);
    const auto reader = decode_pair_address(bytes.subspan(kHelloBytes));
    std::array<std::byte, kWelcomeBytes + kPairAddressBytes> answer{};
    const auto head = std::span(answer).first<kWelcomeBytes>();
    Request request{hello ? hello->rail : std::size_t{0}, hello.value_or(Hello{}), 255};
    const auto refuse = [&](Verdict verdict) {
        encode(welcome(verdict, request), head);
        ::send(connection.socket.get(), head.data(), head.size(), MSG_NOSIGNAL);
        drop(name);
    };
    if (!hello || !reader) return refuse(Verdict::wrong_protocol);
    if (const Verdict verdict = judge(*hello, hello->rail); verdict != Verdict::accepted) {
        return refuse(verdict);
    }
    const Rail& rail = *(*rails_)[request.rail];
    PairPath path = path_to(rail, *reader, options_.traffic_class);
    path.own_packet = random_packet();
    auto pair = make_pair(request, path);
    if (!pair) {
        log(LogLevel::info, "verbs: a reader is refused: {}", pair.error().message);
        return refuse(Verdict::failed);
    }
    encode(welcome(Verdict::accepted, request), head);
    encode(address_of(pair.value(), path.own_packet), std::span(answer).last<kPairAddressBytes>());
    // Fits an empty send buffer.
    const auto sent = ::send(connection.socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(answer.size())) return drop(name);
    connection.pair = std::move(pair).value();
    --unfinished_;
    keep(name, connection, *hello);
}

// Ends requests that are not whole in time. Gives the time when the next one is late.
TimePoint Acceptor::close_late(TimePoint now) {
    std::vector<ConnectionId> late;
    TimePoint next = now + kRequestMax;
    for (const auto& [name, connection] : connections_) {
        if (!connection.socket || connection.pair) continue;
        if (connection.deadline <= now) {
            late.push_back(name);
        } else {
            next = std::min(next, connection.deadline);
        }
    }
    for (const ConnectionId name : late) drop(name);
    return next;
}

}  // namespace weightcast::transport::verbs
