#include "transport/tcp/server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/assert.h"

namespace weightcast::transport::tcp {
namespace {

constexpr std::size_t kServerEventsMax = 64;
// A reader that takes nothing for so long is given up.
constexpr unsigned kUnacknowledgedMsMax = 60'000;

constexpr std::uint64_t kListener = 0;
constexpr std::uint64_t kWake = 1;  // above these: connections

void watch(int epoll, int fd, std::uint32_t events, std::uint64_t id) {
    ::epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

void notify(const UniqueFd& event) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(event.get(), &one, sizeof one);
}

UniqueFd open_spare() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Result<std::unique_ptr<Server>> Server::start(const fabric::FabricOptions& options,
                                              std::shared_ptr<RegionTable> regions) {
    WEIGHTCAST_TRY(Listener listener, listen_on(options.listen, options.congestion_control));
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return system_error(errno, "epoll_create1");
    UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake) return system_error(errno, "eventfd");
    std::unique_ptr<Server> server(new Server(options, std::move(regions), std::move(listener),
                                              std::move(epoll), std::move(wake)));
    // The process's signals are for its own threads.
    ::sigset_t all;
    ::sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    server->thread_ = std::thread([s = server.get()] { s->run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return server;
}

Server::Server(const fabric::FabricOptions& options, std::shared_ptr<RegionTable> regions,
               Listener listener, UniqueFd epoll, UniqueFd wake)
    : options_(options),
      regions_(std::move(regions)),
      listener_(std::move(listener)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      spare_(open_spare()),
      bucket_(options.serve_rate_max, system_clock().now()),
      now_(system_clock().now()) {}

Server::~Server() {
    stopping_.store(true);
    notify(wake_);
    thread_.join();
}

void Server::gates_opened() {
    // A read-modify-write, so that either it sees a request that was parked before, or the parking
    // thread sees all that was written before this call.
    if (parked_.fetch_add(0) == 0) return;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) {
        // Who has it may have looked at the gate already.
        if (!opened_.exchange(true)) notify(wake_);
        return;
    }
    now_ = system_clock().now();
    const bool awaited = !waiting_.empty();
    look_at_gates();
    serve_round();
    // The thread waits for longer than it should.
    if (!turns_.empty() || (!awaited && !waiting_.empty())) notify(wake_);
}

int Server::timeout_ms(bool throttled) const {
    int timeout_ms = -1;
    if (!turns_.empty()) {
        timeout_ms = throttled ? bucket_.wait_ms() : 0;
    } else if (silent_ > 0) {
        timeout_ms = static_cast<int>(options_.progress_ms_max);
    }
    if (waiting_.empty()) return timeout_ms;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_keep_alive_ - now_);
    const int left_ms = static_cast<int>(std::max<std::int64_t>(0, left.count()));
    return timeout_ms < 0 ? left_ms : std::min(timeout_ms, left_ms);
}

void Server::run() {
    watch(epoll_.get(), listener_.socket.get(), EPOLLIN, kListener);
    watch(epoll_.get(), wake_.get(), EPOLLIN, kWake);
    std::array<::epoll_event, kServerEventsMax> events;
    int wait_ms = -1;
    while (true) {
        const int count = ::epoll_wait(epoll_.get(), events.data(), kServerEventsMax, wait_ms);
        if (stopping_.load()) return;
        const std::lock_guard lock(mutex_);
        now_ = system_clock().now();
        for (int i = 0; i < count; ++i) {
            on_event(events[static_cast<std::size_t>(i)].data.u64,
                     events[static_cast<std::size_t>(i)].events);
        }
        if (!waiting_.empty() && now_ >= next_keep_alive_) keep_alive();
        const bool throttled = !serve_round();
        if (silent_ > 0) close_silent();
        wait_ms = timeout_ms(throttled);
    }
}

void Server::on_event(std::uint64_t id, std::uint32_t events) {
    if (id == kWake) {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto taken = ::read(wake_.get(), &count, sizeof count);
        // Before looking: a bit that is set meanwhile wakes again.
        if (opened_.exchange(false)) look_at_gates();
        return;
    }
    if (id == kListener) {
        accept_all();
        return;
    }
    // It may have been closed after the event.
    const auto found = connections_.find(id);
    if (found == connections_.end()) return;
    ServerConnection& connection = *found->second;
    if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
        close(id);
        return;
    }
    if ((events & EPOLLIN) != 0) connection.mark_readable((events & EPOLLRDHUP) != 0);
    if ((events & EPOLLOUT) != 0) connection.mark_writable();
    advance(connection);
}

void Server::advance(ServerConnection& connection) {
    const bool silent = !connection.greeted();
    const std::size_t parked = connection.parked();
    const bool alive = connection.receive();
    if (silent && connection.greeted()) --silent_;
    if (connection.parked() > parked) parked_ += connection.parked() - parked;
    if (!alive) {
        close(connection.id);
        return;
    }
    if (connection.parked() > parked) watch_gates(connection);
    queue_turn(connection);
}

void Server::queue_turn(ServerConnection& connection) {
    if (!connection.can_send() || connection.queued) return;
    connection.queued = true;
    turns_.push_back(connection.id);
}

void Server::accept_all() {
    while (true) {
        UniqueFd socket(
            ::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (socket) {
            if (connections_.size() < kConnectionsMax) add_connection(std::move(socket));
            continue;
        }
        if (errno == EMFILE || errno == ENFILE) {
            // Without this the listener would stay readable and the loop would spin.
            spare_.reset();
            UniqueFd(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
            spare_ = open_spare();
            return;
        }
        if (errno != EINTR && errno != ECONNABORTED) return;
    }
}

void Server::add_connection(UniqueFd socket) {
    const int fd = socket.get();
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kUnacknowledgedMsMax,
                 sizeof kUnacknowledgedMsMax);
    auto connection = std::make_unique<ServerConnection>(std::move(socket), options_.incarnation,
                                                         *regions_, now_);
    const std::uint64_t id = next_connection_++;
    connection->id = id;
    connections_.emplace(id, std::move(connection));
    ++silent_;
    watch(epoll_.get(), fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, id);
}

void Server::close(std::uint64_t id) {
    const auto found = connections_.find(id);
    if (found == connections_.end()) return;
    ServerConnection& connection = *found->second;
    if (!connection.greeted()) --silent_;
    parked_ -= connection.parked();
    if (connection.listed) std::erase(waiting_, &connection);
    connections_.erase(found);
}

bool Server::serve_round() {
    for (std::size_t turns = turns_.size(); turns > 0; --turns) {
        const std::uint64_t allowed = bucket_.available(kTurnBytes, now_);
        if (allowed == 0) return false;
        const std::uint64_t id = turns_.front();
        turns_.pop_front();
        const auto found = connections_.find(id);
        if (found == connections_.end()) continue;
        ServerConnection& connection = *found->second;
        connection.queued = false;
        if (!connection.can_send()) continue;
        const std::uint64_t before = bytes_served();
        const bool alive = connection.send(allowed, bytes_served_);
        bucket_.take(bytes_served() - before);
        if (alive) {
            advance(connection);
        } else {
            close(id);
        }
    }
    return true;
}

void Server::close_silent() {
    const auto deadline = std::chrono::milliseconds(options_.progress_ms_max);
    std::vector<std::uint64_t> late;
    for (const auto& [id, connection] : connections_) {
        if (!connection->greeted() && now_ - connection->accepted() > deadline) late.push_back(id);
    }
    for (const std::uint64_t id : late) close(id);
}

}  // namespace weightcast::transport::tcp
