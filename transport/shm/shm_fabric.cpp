#include "transport/shm/shm_fabric.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/hex.h"
#include "base/random.h"
#include "base/worker_pool.h"
#include "fabric/keyed_region.h"
#include "transport/open.h"
#include "transport/shm/address.h"

namespace weightcast::transport::shm {
namespace {

using fabric::Completion;
using fabric::LinkId;
using fabric::ReadStatus;

// Of copying in one call of poll(), so that the caller gets to its other work every few 100 us.
constexpr std::uint64_t kCopyBytesPerPoll = 2U << 20U;
constexpr int kConnectRetryMs = 5;        // while the holder's backlog is full
constexpr std::uint64_t kWakeId = ~0ULL;  // in epoll, where links have their own id

using ShmRegion = fabric::KeyedRegion<RegionTable, Key>;

std::optional<Key> parse_key(std::span<const std::byte> bytes) {
    Key key;
    if (bytes.size() != key.size()) return std::nullopt;
    std::copy(bytes.begin(), bytes.end(), key.begin());
    return key;
}

int milliseconds_until(TimePoint deadline, TimePoint now) {
    if (deadline <= now) return 0;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
    return static_cast<int>(std::min<std::int64_t>(left, 1 << 30));
}

}  // namespace

Result<std::unique_ptr<fabric::Fabric>> ShmFabric::open(const fabric::FabricOptions& options) {
    std::unique_ptr<ShmFabric> fabric(new ShmFabric(options));
    WEIGHTCAST_CHECK(fabric->start());
    return std::unique_ptr<fabric::Fabric>(std::move(fabric));
}

Result<void> ShmFabric::start() {
    WEIGHTCAST_TRY(scope_, local_scope());
    const Address address{scope_, to_hex(random_identity())};
    address_ = address.text();
    WEIGHTCAST_TRY(regions_, RegionTable::create());
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wake_) return system_error(errno, "cannot create the descriptors of shm");
    ::epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeId;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
        return system_error(errno, "cannot watch an eventfd");
    }
    // On a single core a helper would only take the reader's own time.
    if (usable_cores() > 1) prefault_ = std::make_unique<Prefault>();
    WEIGHTCAST_TRY(server_, Server::start(address.name, options_.incarnation, regions_));
    return success();
}

ShmFabric::~ShmFabric() = default;

bool ShmFabric::can_reach(const std::string& address) const {
    const auto parsed = Address::parse(address);
    return parsed && parsed->scope == scope_;
}

Result<std::unique_ptr<fabric::Region>> ShmFabric::register_memory(const fabric::Memory& memory,
                                                                   fabric::Access access) {
    WEIGHTCAST_CHECK(fabric::check_memory(name(), memory));
    if (access == fabric::Access::local) {
        return std::unique_ptr<fabric::Region>(std::make_unique<ShmRegion>(memory.bytes));
    }
    WEIGHTCAST_TRY(const Key key, regions_->add(memory));
    return std::unique_ptr<fabric::Region>(
        std::make_unique<ShmRegion>(memory.bytes, key, regions_));
}

LinkId ShmFabric::connect(const fabric::PeerAddress& peer) {
    const LinkId id(++links_made_);
    auto link = std::make_unique<Link>(peer, options_.incarnation,
                                       std::chrono::milliseconds(options_.progress_ms_max));
    Link::Outcome outcome;
    if (can_reach(peer.address)) {
        link->connect(system_clock().now(), outcome);
        watch(id, *link);
    } else {
        link->fail(ReadStatus::unreachable,
                   peer.address + " is not of this host and network namespace", outcome);
    }
    links_.emplace(id, std::move(link));
    return id;
}

// A socket that is not connected always polls as hung up, so it is watched only from then on.
void ShmFabric::watch(LinkId id, Link& link) {
    if (link.has_failed() || link.is_connecting()) return;
    ::epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = id.value;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, link.socket(), &event) != 0) {
        Link::Outcome outcome;
        link.fail(ReadStatus::unreachable, system_error(errno, "cannot watch a socket").message,
                  outcome);
        take(outcome);
    }
}

void ShmFabric::disconnect(LinkId id) {
    const auto found = links_.find(id);
    if (found == links_.end()) return;
    Link::Outcome outcome;
    found->second->drop_waiting(ReadStatus::cancelled, outcome);
    take(outcome);
    std::erase_if(queue_, [this, id](const Queued& queued) {
        if (queued.job.read.link != id) return false;
        done_.push_back({queued.job.read.tag, ReadStatus::cancelled});
        return true;
    });
    links_.erase(found);
    set_wake();
}

std::string ShmFabric::link_error(LinkId id) const {
    const auto found = links_.find(id);
    return found == links_.end() ? std::string() : found->second->error();
}

void ShmFabric::take(Link::Outcome& outcome) {
    for (auto& [region, job] : outcome.runnable) {
        region->prepare(job, prefault_.get());
        queue_.push_back({std::move(region), job});
    }
    done_.insert(done_.end(), outcome.failed.begin(), outcome.failed.end());
    outcome = {};
}

void ShmFabric::submit(std::span<const fabric::Read> reads) {
    const TimePoint now = system_clock().now();
    for (const auto& read : reads) submit_one(read, now);
    set_wake();
}

void ShmFabric::submit_one(const fabric::Read& read, TimePoint now) {
    const auto link = links_.find(read.link);
    if (link == links_.end()) {
        done_.push_back({read.tag, ReadStatus::unreachable});
        return;
    }
    const auto key = parse_key(read.key);
    const auto local = read.local != nullptr ? read.local->bytes() : std::span<std::byte>();
    if (!key || read.bytes == 0 || read.local_offset > local.size() ||
        read.bytes > local.size() - read.local_offset) {
        done_.push_back({read.tag, ReadStatus::access_denied});
        return;
    }
    Link::Outcome outcome;
    link->second->add(*key, Job{read, local.data() + read.local_offset, 0}, now, outcome);
    take(outcome);
}

void ShmFabric::progress_links() {
    if (links_.empty()) return;
    const TimePoint now = system_clock().now();
    Link::Outcome outcome;
    std::array<::epoll_event, 16> events{};
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), 0);
    for (int i = 0; i < count; ++i) {
        const auto id = events[static_cast<std::size_t>(i)].data.u64;
        const auto found = links_.find(LinkId(static_cast<std::uint32_t>(id)));
        if (id != kWakeId && found != links_.end()) found->second->progress(now, outcome);
    }
    for (auto& [id, link] : links_) {
        const bool was_connecting = link->is_connecting();
        if (was_connecting || link->deadline() <= now) link->progress(now, outcome);
        if (was_connecting) watch(id, *link);
    }
    take(outcome);
}

void ShmFabric::finish(const Queued& queued, CopyResult result, Link& link) {
    ReadStatus status = ReadStatus::ok;
    Link::Outcome outcome;
    switch (result) {
        case CopyResult::more:
        case CopyResult::done:
            break;
        case CopyResult::denied:
            status = ReadStatus::access_denied;
            if (!queued.region->is_valid(link.holder())) link.forget(queued.region->key);
            break;
        case CopyResult::forbidden:
            status = ReadStatus::access_denied;
            link.set_error(
                "the kernel forbids to read the holder's private memory: set "
                "kernel.yama.ptrace_scope to 0, allow process_vm_readv in the "
                "container's seccomp profile, or publish shared memory");
            break;
        case CopyResult::fault:
            status = ReadStatus::remote_fault;
            break;
        case CopyResult::holder_gone:
            status = ReadStatus::unreachable;
            link.fail(status, "the holder has gone", outcome);
            take(outcome);
            break;
    }
    done_.push_back({queued.job.read.tag, status});
}

void ShmFabric::copy_slices(std::size_t completions_max) {
    std::uint64_t left = kCopyBytesPerPoll;
    while (!queue_.empty() && left > 0 && done_.size() < completions_max) {
        Queued& front = queue_.front();
        Link& link = *links_.at(front.job.read.link);
        if (link.has_failed()) {
            done_.push_back({front.job.read.tag, link.status()});
            queue_.pop_front();
            continue;
        }
        const std::uint64_t before = front.job.done_bytes;
        const CopyResult result = copy_some(*front.region, link.holder(), front.job, left);
        left -= front.job.done_bytes - before;
        if (result == CopyResult::more) continue;
        const Queued finished = std::move(front);
        queue_.pop_front();
        finish(finished, result, link);
    }
}

std::size_t ShmFabric::poll(std::span<Completion> completions) {
    progress_links();
    copy_slices(completions.size());
    const std::size_t count = std::min(completions.size(), done_.size());
    const auto end = done_.begin() + static_cast<std::ptrdiff_t>(count);
    std::copy(done_.begin(), end, completions.begin());
    done_.erase(done_.begin(), end);
    set_wake();
    return count;
}

void ShmFabric::set_wake() {
    const bool has_work = !queue_.empty() || !done_.empty();
    if (has_work == is_awake_) return;
    ::eventfd_t ignored = 0;
    if (has_work) {
        ::eventfd_write(wake_.get(), 1);
    } else {
        ::eventfd_read(wake_.get(), &ignored);
    }
    is_awake_ = has_work;
}

int ShmFabric::wait_ms() const {
    TimePoint earliest = TimePoint::max();
    bool is_connecting = false;
    for (const auto& [id, link] : links_) {
        earliest = std::min(earliest, link->deadline());
        is_connecting = is_connecting || link->is_connecting();
    }
    if (is_connecting) return kConnectRetryMs;
    if (earliest == TimePoint::max()) return -1;
    return milliseconds_until(earliest, system_clock().now());
}

Result<std::shared_ptr<RemoteRegion>> ShmFabric::wait_for_region(Link& link, LinkId id,
                                                                 const Key& key) {
    Link::Outcome outcome;
    std::shared_ptr<RemoteRegion> region;
    if (!link.has_failed()) region = link.want(key, system_clock().now(), outcome);
    while (!link.has_failed() && region->state != RemoteRegion::State::open &&
           region->state != RemoteRegion::State::refused) {
        const bool was_connecting = link.is_connecting();
        const int patience = was_connecting
                                 ? kConnectRetryMs
                                 : milliseconds_until(link.deadline(), system_clock().now());
        ::pollfd socket{was_connecting ? -1 : link.socket(), POLLIN, 0};
        ::poll(&socket, 1, patience);
        link.progress(system_clock().now(), outcome);
        if (was_connecting) watch(id, link);
    }
    take(outcome);
    set_wake();
    if (link.has_failed()) return Error{Code::unavailable, 0, link.error()};
    if (region->state == RemoteRegion::State::refused) {
        return Error{Code::unavailable, 0, "the holder has no such region"};
    }
    return region;
}

Result<Mapping> ShmFabric::map_region(LinkId id, std::span<const std::byte> key_bytes) {
    const auto link = links_.find(id);
    const auto key = parse_key(key_bytes);
    if (link == links_.end() || !key) {
        return Error{Code::unavailable, 0, "no such link, or not a key of shm"};
    }
    WEIGHTCAST_TRY(const auto region, wait_for_region(*link->second, id, *key));
    if (!region->is_valid(link->second->holder())) {
        return Error{Code::unavailable, 0, "the holder has revoked the region"};
    }
    return map_read_only(*region);
}

}  // namespace weightcast::transport::shm

namespace weightcast::transport {

Result<std::unique_ptr<fabric::Fabric>> open_shm(const fabric::FabricOptions& options) {
    return shm::ShmFabric::open(options);
}

}  // namespace weightcast::transport
