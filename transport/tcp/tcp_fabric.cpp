#include "transport/tcp/tcp_fabric.h"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/socket.h"
#include "transport/open.h"

namespace weightcast::transport::tcp {
namespace {

using fabric::Completion;
using fabric::LinkId;
using fabric::Read;
using fabric::ReadStatus;

constexpr std::string_view kScheme = "tcp://";
constexpr std::size_t kEventsMax = 32;
constexpr std::uint64_t kConnectionBytesMin = 256U << 10U;
constexpr std::uint32_t kConnectionsPerLinkMax = 64;
constexpr std::uint64_t kSignal = ~std::uint64_t{0};

}  // namespace

Result<std::unique_ptr<TcpFabric>> TcpFabric::open(const fabric::FabricOptions& options) {
    if (options.progress_ms_max == 0 || options.connections_per_link == 0 ||
        options.connections_per_link > kConnectionsPerLinkMax) {
        return Error{
            Code::invalid_input, 0,
            fmt::format("progress_ms_max must be positive and connections_per_link 1 to {}",
                        kConnectionsPerLinkMax)};
    }
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return system_error(errno, "epoll_create1");
    UniqueFd signal(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!signal) return system_error(errno, "eventfd");
    ::epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kSignal;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, signal.get(), &event) != 0) {
        return system_error(errno, "epoll_ctl");
    }
    std::unique_ptr<TcpFabric> fabric(new TcpFabric(options, std::move(epoll), std::move(signal)));
    WEIGHTCAST_TRY(fabric->server_, Server::start(options, fabric->regions_));
    return fabric;
}

TcpFabric::TcpFabric(const fabric::FabricOptions& options, UniqueFd epoll, UniqueFd signal)
    : options_(options),
      progress_max_(std::chrono::milliseconds(options.progress_ms_max)),
      regions_(std::make_shared<RegionTable>()),
      epoll_(std::move(epoll)),
      signal_(std::move(signal)) {}

std::string TcpFabric::address() const {
    return std::string(kScheme) + format_address(server_->address());
}

bool TcpFabric::can_reach(const std::string& address) const { return address.starts_with(kScheme); }

Result<std::unique_ptr<fabric::Region>> TcpFabric::register_memory(const fabric::Memory& memory,
                                                                   fabric::Access access) {
    WEIGHTCAST_CHECK(fabric::check_memory(name(), memory));
    return std::unique_ptr<fabric::Region>(std::make_unique<TcpRegion>(memory, access, regions_));
}

LinkId TcpFabric::connect(const fabric::PeerAddress& peer) {
    const std::uint32_t id = next_link_++;
    links_[id].peer = peer;
    return LinkId(id);
}

void TcpFabric::open_connections(std::uint32_t id, Link& link) {
    for (std::uint32_t i = 0; i < options_.connections_per_link; ++i) {
        auto connection = open_connection(link.peer, {id, i});
        if (!connection) {
            return fail(link, {ReadStatus::unreachable, std::move(connection).error().message});
        }
        link.connections.push_back(std::move(connection).value());
    }
}

Result<std::unique_ptr<ReaderConnection>> TcpFabric::open_connection(
    const fabric::PeerAddress& peer, ConnectionName name) {
    if (!can_reach(peer.address)) {
        return Error{Code::invalid_input, 0, fmt::format("'{}' is no tcp address", peer.address)};
    }
    WEIGHTCAST_TRY(SocketAddress address,
                   parse_address(std::string_view(peer.address).substr(kScheme.size())));
    WEIGHTCAST_TRY(UniqueFd socket,
                   open_socket(address.storage.ss_family, options_.congestion_control));
    if (::connect(socket.get(), address.get(), address.bytes) != 0 && errno != EINPROGRESS) {
        return system_error(Code::unavailable, errno, "cannot connect");
    }
    const TimePoint now = system_clock().now();
    auto connection =
        std::make_unique<ReaderConnection>(std::move(socket), peer, options_.incarnation, now);
    ::epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT;
    event.data.u64 = std::uint64_t{name.link} << 32U | name.index;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection->fd(), &event) != 0) {
        return system_error(errno, "epoll_ctl");
    }
    next_deadline_ = std::min(next_deadline_, now + progress_max_);
    return connection;
}

void TcpFabric::disconnect(LinkId link) {
    const auto found = links_.find(link.value);
    if (found == links_.end()) return;
    fail(found->second, {ReadStatus::cancelled, "disconnected"});
    links_.erase(found);
    update_signal();
}

std::string TcpFabric::link_error(LinkId link) const {
    const auto found = links_.find(link.value);
    return found == links_.end() ? "the link is disconnected" : found->second.failure.text;
}

void TcpFabric::submit(std::span<const Read> reads) {
    const TimePoint now = system_clock().now();
    for (const Read& read : reads) start_read(read, now);
    for (const ConnectionName name : unflushed_) flush(name);
    unflushed_.clear();
    update_signal();
}

void TcpFabric::start_read(const Read& read, TimePoint now) {
    WEIGHTCAST_ASSERT(read.local != nullptr && read.bytes > 0);
    const std::span<std::byte> local = read.local->bytes();
    WEIGHTCAST_ASSERT(read.local_offset <= local.size() &&
                      read.bytes <= local.size() - read.local_offset);
    const auto found = links_.find(read.link.value);
    // Many a holder that a reader knows of is never read from.
    const bool unopened = found != links_.end() && found->second.connections.empty();
    if (unopened && found->second.failure.text.empty()) {
        open_connections(read.link.value, found->second);
    }
    if (found == links_.end() || found->second.connections.empty()) {
        done_.push({read.tag, found == links_.end() ? ReadStatus::unreachable
                                                    : found->second.failure.status});
        return;
    }
    const auto region = decode_key(read.key);
    const auto gate_region = read.gate.empty() ? std::nullopt : decode_key(read.gate);
    if (!region || gate_region.has_value() == read.gate.empty()) {
        done_.push({read.tag, ReadStatus::access_denied});
        return;
    }
    std::optional<Gate> gate;
    if (gate_region) gate = Gate{*gate_region, read.gate_bit};
    auto& connections = found->second.connections;
    const auto least = std::ranges::min_element(
        connections, {}, [](const auto& c) { return c->outstanding_bytes(); });
    const auto index = static_cast<std::uint32_t>(least - connections.begin());
    (*least)->request(*region, read.remote_offset, local.data() + read.local_offset, read.bytes,
                      read.tag, now, gate, gate ? read.turn : 0);
    if (const auto deadline = (*least)->deadline(progress_max_)) {
        next_deadline_ = std::min(next_deadline_, *deadline);
    }
    const auto same = [&](const ConnectionName& name) {
        return name.link == read.link.value && name.index == index;
    };
    if (std::ranges::none_of(unflushed_, same)) unflushed_.push_back({read.link.value, index});
}

std::size_t TcpFabric::poll(std::span<Completion> completions) {
    if (done_.size() < completions.size()) progress(system_clock().now());
    std::size_t count = 0;
    for (; count < completions.size() && !done_.empty(); ++count) {
        completions[count] = done_.front();
        done_.pop();
    }
    update_signal();
    return count;
}

void TcpFabric::progress(TimePoint now) {
    std::array<::epoll_event, kEventsMax> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, 0);
    const auto visits = static_cast<std::uint64_t>(std::max(count, 1));
    const std::uint64_t bytes_max = std::max(kConnectionBytesMin, kPollBytes / visits);
    for (int i = 0; i < count; ++i) {
        const std::uint64_t data = events[static_cast<std::size_t>(i)].data.u64;
        if (data == kSignal) continue;
        const ConnectionName name{static_cast<std::uint32_t>(data >> 32U),
                                  static_cast<std::uint32_t>(data)};
        on_event(name, bytes_max, now);
    }
    if (now >= next_deadline_) check_deadlines(now);
}

void TcpFabric::on_event(ConnectionName name, std::uint64_t bytes_max, TimePoint now) {
    ReaderConnection* connection = find(name);
    if (connection == nullptr) return;
    auto failure = connection->flush();
    if (!failure) failure = connection->receive(bytes_max, now, done_);
    if (failure) {
        fail(links_.at(name.link), std::move(*failure));
        return;
    }
    update_watch(*connection, name);
}

void TcpFabric::flush(ConnectionName name) {
    ReaderConnection* connection = find(name);
    if (connection == nullptr) return;
    if (auto failure = connection->flush()) {
        fail(links_.at(name.link), std::move(*failure));
        return;
    }
    update_watch(*connection, name);
}

void TcpFabric::update_watch(ReaderConnection& connection, ConnectionName name) {
    if (connection.wants_write() == connection.watches_write) return;
    connection.watches_write = connection.wants_write();
    ::epoll_event event{};
    event.events = connection.watches_write ? EPOLLIN | EPOLLOUT : EPOLLIN;
    event.data.u64 = std::uint64_t{name.link} << 32U | name.index;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.fd(), &event);
}

void TcpFabric::fail(Link& link, Failure failure) {
    for (const auto& connection : link.connections) connection->fail_all(failure.status, done_);
    link.connections.clear();
    failure.text = fmt::format("{}: {}", link.peer.address, failure.text);
    link.failure = std::move(failure);
}

void TcpFabric::check_deadlines(TimePoint now) {
    TimePoint next = TimePoint::max();
    for (auto& [id, link] : links_) {
        std::optional<Failure> failure;
        TimePoint earliest = TimePoint::max();
        for (const auto& connection : link.connections) {
            auto deadline = connection->deadline(progress_max_);
            if (deadline && *deadline <= now) {
                // Bytes that wait in the socket are progress that this thread has not looked at.
                failure = connection->receive(kConnectionBytesMin, now, done_);
                if (failure) break;
                deadline = connection->deadline(progress_max_);
            }
            if (deadline) earliest = std::min(earliest, *deadline);
        }
        if (!failure && earliest <= now) {
            failure = Failure{ReadStatus::timed_out,
                              fmt::format("no progress for {} ms", options_.progress_ms_max)};
        }
        if (failure) {
            fail(link, std::move(*failure));
        } else {
            next = std::min(next, earliest);
        }
    }
    next_deadline_ = next;
}

int TcpFabric::wait_ms() const {
    if (!done_.empty()) return 0;
    if (next_deadline_ == TimePoint::max()) return -1;
    const Duration left = next_deadline_ - system_clock().now();
    if (left <= Duration::zero()) return 0;
    return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
}

ReaderConnection* TcpFabric::find(ConnectionName name) {
    const auto found = links_.find(name.link);
    if (found == links_.end() || name.index >= found->second.connections.size()) return nullptr;
    return found->second.connections[name.index].get();
}

void TcpFabric::update_signal() {
    const bool wanted = !done_.empty();
    if (wanted == signalled_) return;
    signalled_ = wanted;
    std::uint64_t value = 1;
    if (wanted) {
        [[maybe_unused]] const auto written = ::write(signal_.get(), &value, sizeof value);
    } else {
        [[maybe_unused]] const auto taken = ::read(signal_.get(), &value, sizeof value);
    }
}

}  // namespace weightcast::transport::tcp

namespace weightcast::transport {

Result<std::unique_ptr<fabric::Fabric>> open_tcp(const fabric::FabricOptions& options) {
    WEIGHTCAST_TRY(auto fabric, tcp::TcpFabric::open(options));
    return std::unique_ptr<fabric::Fabric>(std::move(fabric));
}

}  // namespace weightcast::transport
