#include "transport/verbs/acceptor.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/log.h"

namespace weightcast::transport::verbs {
namespace {

constexpr std::size_t kConnectionsMax = 16384;
constexpr int kBacklog = 1024;
// A reader's host that is gone is noticed after so long and the retries of one probe.
constexpr auto kProbeInterval = std::chrono::seconds(10);
constexpr std::size_t kEventsMax = 64;
constexpr std::uint32_t kProbeDepth = 4;

// Names of descriptors in epoll; those below are connections.
constexpr std::uint64_t kWake = std::uint64_t{1} << 63U;
constexpr std::uint64_t kChannel = kWake + 1;
constexpr std::uint64_t kControl = kWake + 2;
constexpr std::uint64_t kProbes = kWake + 3;             // and one more for each rail
constexpr std::uint64_t kDevices = kProbes + kRailsMax;  // and one more for each rail

void set_nonblocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

Result<void> watch(int epoll, int fd, std::uint64_t name) {
    ::epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = name;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) return success();
    return system_error(errno, "epoll_ctl");
}

}  // namespace

Result<std::unique_ptr<Acceptor>> Acceptor::start(const fabric::FabricOptions& options,
                                                  std::shared_ptr<const Rails> rails,
                                                  int port_changed) {
    std::unique_ptr<Acceptor> acceptor(new Acceptor(options, std::move(rails), port_changed));
    WEIGHTCAST_CHECK(acceptor->open());
    // The process's signals are for its own threads.
    ::sigset_t all;
    ::sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    acceptor->thread_ = std::thread([a = acceptor.get()] { a->run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return acceptor;
}

Acceptor::Acceptor(const fabric::FabricOptions& options, std::shared_ptr<const Rails> rails,
                   int port_changed)
    : options_(options), rails_(std::move(rails)), port_changed_(port_changed) {}

Acceptor::~Acceptor() {
    stopping_ = true;
    if (thread_.joinable()) {
        ::eventfd_write(wake_.get(), 1);
        thread_.join();
    }
    connections_.clear();
}

Result<void> Acceptor::open() {
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wake_) return system_error(errno, "cannot create the descriptors of verbs");
    WEIGHTCAST_CHECK(watch(epoll_.get(), wake_.get(), kWake));
    channel_.reset(::rdma_create_event_channel());
    listeners_.resize(rails_->size());
    address_.rails.resize(rails_->size());
    if (channel_) {
        set_nonblocking(channel_->fd);
        WEIGHTCAST_CHECK(watch(epoll_.get(), channel_->fd, kChannel));
        for (std::size_t rail = 0; rail < rails_->size(); ++rail) {
            WEIGHTCAST_CHECK(listen_by_cm(rail));
        }
    } else {
        log(LogLevel::warning, "verbs connects out of band only: {}",
            system_error(errno, "rdma_create_event_channel").message);
    }
    // A port in `listen` is another transport's.
    WEIGHTCAST_TRY(SocketAddress host, parse_address(options_.listen));
    set_port(host, 0);
    WEIGHTCAST_TRY(control_, listen_on(format_address(host)));
    address_.control = control_.address;
    WEIGHTCAST_CHECK(watch(epoll_.get(), control_.socket.get(), kControl));
    for (std::size_t rail = 0; rail < rails_->size(); ++rail) {
        WEIGHTCAST_CHECK(make_queue(rail));
        const int fd = (*rails_)[rail]->context()->async_fd;
        set_nonblocking(fd);
        WEIGHTCAST_CHECK(watch(epoll_.get(), fd, kDevices + rail));
    }
    return success();
}

Result<void> Acceptor::listen_by_cm(std::size_t rail) {
    const Rail& at = *(*rails_)[rail];
    if (!at.choice().ip) return success();
    const auto failed = [&](const char* call) {
        return system_error(Code::unavailable, errno, fmt::format("{} on {}", call, at.name()));
    };
    ::rdma_cm_id* id = nullptr;
    void* context = std::bit_cast<void*>(kListeners + rail);
    if (::rdma_create_id(channel_.get(), &id, context, RDMA_PS_TCP) != 0) {
        return failed("rdma_create_id");
    }
    listeners_[rail].reset(id);
    SocketAddress address = *at.choice().ip;
    if (::rdma_bind_addr(id, address.get()) != 0) return failed("rdma_bind_addr");
    if (::rdma_listen(id, kBacklog) != 0) return failed("rdma_listen");
    set_port(address, ntohs(::rdma_get_src_port(id)));
    address_.rails[rail] = address;
    return success();
}

// One probe of each connection can be outstanding.
Result<void> Acceptor::make_queue(std::size_t rail) {
    const Rail& at = *(*rails_)[rail];
    channels_.emplace_back(::ibv_create_comp_channel(at.context()));
    if (!channels_.back()) return system_error(errno, "ibv_create_comp_channel on " + at.name());
    const int fd = channels_.back()->fd;
    set_nonblocking(fd);
    const int entries = std::min(static_cast<int>(kConnectionsMax), at.completions_max());
    queues_.emplace_back(
        ::ibv_create_cq(at.context(), entries, nullptr, channels_.back().get(), 0));
    if (!queues_.back()) return system_error(errno, "ibv_create_cq on " + at.name());
    return watch(epoll_.get(), fd, kProbes + rail);
}

void Acceptor::run() {
    std::array<::epoll_event, kEventsMax> events;
    while (true) {
        const int timeout_ms = wait_ms(system_clock().now());
        const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, timeout_ms);
        if (stopping_) return;
        for (int i = 0; i < count; ++i) on_descriptor(events[static_cast<std::size_t>(i)].data.u64);
        count_.store(connections_.size(), std::memory_order_relaxed);
    }
}

// Does what is due, and gives the time until the next is. Without readers there is none.
int Acceptor::wait_ms(TimePoint now) {
    if (unfinished_ == 0 && connections_.empty()) {
        next_probe_ = now + kProbeInterval;
        return -1;
    }
    TimePoint next = unfinished_ > 0 ? close_late(now) : TimePoint::max();
    if (now >= next_probe_) {
        probe_all();
        next_probe_ = now + kProbeInterval;
    }
    next = std::min(next, next_probe_);
    return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(next - now).count());
}

void Acceptor::on_descriptor(std::uint64_t name) {
    if (name == kWake) return;
    if (name == kChannel) return on_cm_events();
    if (name == kControl) return accept_all();
    if (name >= kProbes && name < kDevices) {
        return on_probes(static_cast<std::size_t>(name - kProbes));
    }
    if (name >= kDevices) return on_device_event(static_cast<std::size_t>(name - kDevices));
    on_control(name);
}

Verdict Acceptor::judge(const Hello& hello, std::size_t rail) const {
    if (hello.protocol != kProtocolVersion) return Verdict::wrong_protocol;
    if (hello.expected != options_.incarnation) return Verdict::stale_peer;
    if (hello.rail != rail || rail >= rails_->size()) return Verdict::no_rail;
    if (connections_.size() > kConnectionsMax) return Verdict::busy;
    return Verdict::accepted;
}

Welcome Acceptor::welcome(Verdict verdict, const Request& request) const {
    Welcome welcome;
    welcome.verdict = verdict;
    // Who does not know the incarnation is not told: knowing it is what lets a reader in.
    if (verdict != Verdict::accepted) return welcome;
    welcome.incarnation = options_.incarnation;
    const Rail& rail = *(*rails_)[request.rail];
    welcome.mtu = std::min(request.hello.mtu, static_cast<std::uint8_t>(rail.mtu()));
    const int depth = std::min<int>(rail.choice().serve_depth, request.read_depth);
    welcome.serve_depth = static_cast<std::uint8_t>(std::clamp(depth, 1, 255));
    return welcome;
}

Result<QueuePair> Acceptor::make_pair(const Request& request, PairPath& path) const {
    const Rail& rail = *(*rails_)[request.rail];
    const Welcome answer = welcome(Verdict::accepted, request);
    WEIGHTCAST_TRY(QueuePair pair,
                   QueuePair::create(rail, queues_[request.rail].get(), kProbeDepth));
    path.mtu = static_cast<::ibv_mtu>(answer.mtu);
    path.serve_depth = answer.serve_depth;
    path.read_depth = 1;
    path.retries = kProbeRetries;
    WEIGHTCAST_CHECK(pair.to_init(path));
    WEIGHTCAST_CHECK(pair.to_ready_to_receive(path));
    WEIGHTCAST_CHECK(pair.to_ready_to_send(path));
    return pair;
}

void Acceptor::keep(ConnectionId name, Connection& connection, const Hello& hello) {
    connection.lane = LaneId{hello.reader, hello.lane};
    connection.probe_key = hello.probe_key;
    const auto [former, is_new] = lanes_.try_emplace(*connection.lane, name);
    if (is_new) return;
    const ConnectionId older = std::exchange(former->second, name);
    drop(older);
}

void Acceptor::drop(ConnectionId name) {
    const auto found = connections_.find(name);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    if (connection.socket && !connection.pair) --unfinished_;
    if (connection.lane) {
        const auto lane = lanes_.find(*connection.lane);
        if (lane != lanes_.end() && lane->second == name) lanes_.erase(lane);
    }
    connections_.erase(found);
}

void Acceptor::on_device_event(std::size_t rail) {
    Rail& at = *(*rails_)[rail];
    ::ibv_async_event event{};
    while (::ibv_get_async_event(at.context(), &event) == 0) {
        const ::ibv_event_type kind = event.event_type;
        const bool of_port = kind == IBV_EVENT_PORT_ERR || kind == IBV_EVENT_PORT_ACTIVE;
        const bool ours = of_port && event.element.port_num == at.choice().port.number;
        ::ibv_ack_async_event(&event);
        if (ours || kind == IBV_EVENT_DEVICE_FATAL) {
            const bool up = kind == IBV_EVENT_PORT_ACTIVE;
            log(LogLevel::warning, "verbs: {} {}", at.name(), ::ibv_event_type_str(kind));
            at.up = up;
            ::eventfd_write(port_changed_, 1);
        } else {
            log(LogLevel::debug, "verbs: {} {}", at.name(), ::ibv_event_type_str(kind));
        }
    }
}

}  // namespace weightcast::transport::verbs
