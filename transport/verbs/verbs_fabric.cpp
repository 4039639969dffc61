#include "transport/verbs/verbs_fabric.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "transport/open.h"
#include "transport/verbs/device.h"
#include "transport/verbs/load_rdma.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::LinkId;
using fabric::ReadStatus;

// After the last completion the thread goes on polling for so long before it sleeps: an interrupt
// takes longer than the next piece.
constexpr auto kSpin = std::chrono::microseconds(50);
// While completions keep coming, connections and ports are looked at this often.
constexpr auto kEventsInterval = std::chrono::milliseconds(1);
constexpr std::size_t kEventsMax = 32;
constexpr std::uint64_t kSliceBytesMin = 1U << 16U;

// Names of descriptors in epoll; all others are lanes.
constexpr std::uint64_t kPorts = ~std::uint64_t{0};
constexpr std::uint64_t kChannels = kPorts - kRailsMax;  // and one more for each rail

// A child that is forked while memory is pinned must not move the parent's pages. Newer kernels see
// to that; for older ones the library can, if it is asked before the first registration.
void make_fork_safe() {
    if (::ibv_is_fork_initialized() != IBV_FORK_DISABLED) return;
    if (const int failure = ::ibv_fork_init(); failure != 0) {
        log(LogLevel::warning,
            "verbs: {}: this process must not fork while it reads or serves weights",
            system_error(failure, "ibv_fork_init").message);
    }
}

}  // namespace

Result<std::unique_ptr<VerbsFabric>> VerbsFabric::open(const fabric::FabricOptions& options) {
    if (options.progress_ms_max == 0) {
        return Error{Code::invalid_input, 0, "progress_ms_max must be positive"};
    }
    if (options.slice_bytes < kSliceBytesMin || !std::has_single_bit(options.slice_bytes)) {
        return Error{
            Code::invalid_input, 0,
            fmt::format("slice_bytes must be a power of two of at least {}", kSliceBytesMin)};
    }
    std::unique_ptr<VerbsFabric> fabric(new VerbsFabric(options));
    // Most hosts have none, and need not load libraries to see it.
    WEIGHTCAST_CHECK(has_devices());
    WEIGHTCAST_CHECK(load_rdma());
    make_fork_safe();
    WEIGHTCAST_CHECK(fabric->open_rails());
    WEIGHTCAST_CHECK(fabric->open_events());
    WEIGHTCAST_TRY(fabric->acceptor_,
                   Acceptor::start(options, fabric->rails_, fabric->port_changed_.get()));
    return fabric;
}

VerbsFabric::VerbsFabric(const fabric::FabricOptions& options)
    : options_(options), rails_(std::make_shared<Rails>()) {}

VerbsFabric::~VerbsFabric() {
    for (const auto& [id, link] : links_) link->abandon();
    for (const auto& link : leaving_) link->abandon();
}

Result<void> VerbsFabric::open_rails() {
    std::vector<std::string> trouble;
    WEIGHTCAST_TRY(const auto devices, list_devices(trouble));
    WEIGHTCAST_TRY(RailPlan plan,
                   choose_rails(devices, options_.devices, options_.listen, find_ipoib));
    trouble.insert(trouble.end(), plan.left_out.begin(), plan.left_out.end());
    for (const std::string& text : trouble) {
        log(LogLevel::warning, "verbs goes without a port: {}", text);
    }
    for (const RailChoice& choice : plan.rails) {
        auto rail = Rail::open(choice);
        if (!rail) {
            log(LogLevel::warning, "verbs goes without a port: {}", rail.error().message);
            continue;
        }
        log(LogLevel::info, "verbs: rail {}, GID {} {} ({}), {} bytes/s, MTU {}", choice.name(),
            choice.gid.index, format_gid(choice.gid.bytes), choice.reason, choice.port.rate,
            choice.port.mtu);
        emulated_ = emulated_ || choice.software;
        rails_->push_back(std::move(rail).value());
    }
    if (rails_->empty()) return Error{Code::unavailable, 0, "no RDMA port could be opened"};
    registrations_ =
        std::make_shared<RegistrationTable>(rails_, options_.slice_bytes, options_.cuda_library);
    return success();
}

Result<void> VerbsFabric::open_events() {
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    port_changed_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !port_changed_) {
        return system_error(errno, "cannot create the descriptors of verbs");
    }
    const auto watch = [this](int fd, std::uint64_t name) -> Result<void> {
        ::epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = name;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return success();
        return system_error(errno, "epoll_ctl");
    };
    WEIGHTCAST_CHECK(watch(port_changed_.get(), kPorts));
    for (std::size_t rail = 0; rail < rails_->size(); ++rail) {
        const Rail& at = *(*rails_)[rail];
        ChannelHandle channel(::ibv_create_comp_channel(at.context()));
        if (!channel) return system_error(errno, "ibv_create_comp_channel on " + at.name());
        ::fcntl(channel->fd, F_SETFL, ::fcntl(channel->fd, F_GETFL) | O_NONBLOCK);
        WEIGHTCAST_CHECK(watch(channel->fd, kChannels + rail));
        channels_.push_back(std::move(channel));
    }
    shared_.reset(new LinkShared{options_, *rails_, channels_, operations_, done_, epoll_.get()});
    return success();
}

bool VerbsFabric::can_reach(const std::string& address) const {
    const auto parsed = HolderAddress::parse(address);
    if (!parsed) return false;
    const bool by_cm = !options_.out_of_band &&
                       std::ranges::any_of(parsed->rails, [](const auto& r) { return !!r; }) &&
                       std::ranges::any_of(*rails_, [](const auto& r) { return !!r->choice().ip; });
    return by_cm || parsed->control.has_value();
}

Result<std::unique_ptr<fabric::Region>> VerbsFabric::register_memory(const fabric::Memory& memory,
                                                                     fabric::Access access) {
    WEIGHTCAST_CHECK(fabric::check_memory(name(), memory, true));
    WEIGHTCAST_TRY(auto registration, registrations_->take(memory, access));
    return std::unique_ptr<fabric::Region>(
        std::make_unique<VerbsRegion>(registrations_, std::move(registration), memory, access));
}

LinkId VerbsFabric::connect(const fabric::PeerAddress& peer) {
    const TimePoint now = system_clock().now();
    const std::uint32_t id = ++links_made_;
    Link& link = *links_.emplace(id, std::make_unique<Link>(*shared_, id, peer)).first->second;
    link.open(now);
    schedule(link);
    return LinkId(id);
}

void VerbsFabric::disconnect(LinkId id) {
    const auto found = links_.find(id.value);
    if (found == links_.end()) return;
    std::unique_ptr<Link> link = std::move(found->second);
    links_.erase(found);
    link->fail({ReadStatus::cancelled, "disconnected", false}, system_clock().now());
    if (link->settled()) return;
    schedule(*link);
    leaving_.push_back(std::move(link));
}

std::string VerbsFabric::link_error(LinkId link) const {
    const auto found = links_.find(link.value);
    return found == links_.end() ? "the link is disconnected" : found->second->error();
}

void VerbsFabric::submit(std::span<const fabric::Read> reads) {
    const TimePoint now = system_clock().now();
    Link* link = nullptr;
    LinkId last;
    for (const fabric::Read& read : reads) {
        WEIGHTCAST_ASSERT(read.local != nullptr && read.bytes > 0);
        const std::uint64_t size = read.local->bytes().size();
        WEIGHTCAST_ASSERT(read.local_offset <= size && read.bytes <= size - read.local_offset);
        if (link == nullptr || read.link != last) {
            if (link != nullptr) start(*link, now);
            const auto found = links_.find(read.link.value);
            link = found == links_.end() ? nullptr : found->second.get();
            last = read.link;
        }
        if (link == nullptr) {
            done_.push({read.tag, ReadStatus::unreachable});
            continue;
        }
        link->add(read, now);
    }
    if (link != nullptr) start(*link, now);
}

void VerbsFabric::start(Link& link, TimePoint now) {
    link.pump(now);
    schedule(link);
}

std::size_t VerbsFabric::poll(std::span<fabric::Completion> completions) {
    const TimePoint now = system_clock().now();
    std::size_t settled = poll_links(now);
    if (settled == 0 && !armed_ && is_reading() && now - last_settled_ >= kSpin) {
        arm();
        // What came before the channels were armed has no event.
        settled = poll_links(now);
    }
    // With nothing left to read the deadlines are off, and nothing needs to be woken for them.
    if (settled > 0 && !is_reading()) reschedule();
    if (settled == 0 || now >= next_events_) on_events(now);
    if (now >= next_check_) check_links(now);
    std::size_t count = 0;
    while (count < completions.size() && !done_.empty()) completions[count++] = done_.pop();
    return count;
}

std::size_t VerbsFabric::poll_links(TimePoint now) {
    std::size_t settled = 0;
    for (const auto& [id, link] : links_) {
        const std::size_t count = link->poll(now);
        if (count == 0) continue;
        settled += count;
        start(*link, now);
    }
    for (auto link = leaving_.begin(); link != leaving_.end();) {
        settled += (*link)->poll(now);
        link = (*link)->settled() ? leaving_.erase(link) : link + 1;
    }
    if (settled > 0) {
        last_settled_ = now;
        armed_ = false;
    }
    return settled;
}

bool VerbsFabric::is_reading() const {
    const auto reads = [](const Link& link) { return link.outstanding() > 0; };
    return std::ranges::any_of(links_, [&](const auto& named) { return reads(*named.second); }) ||
           std::ranges::any_of(leaving_, [&](const auto& link) { return reads(*link); });
}

void VerbsFabric::arm() {
    for (const auto& [id, link] : links_) link->arm();
    for (const auto& link : leaving_) link->arm();
    armed_ = true;
}

void VerbsFabric::on_events(TimePoint now) {
    next_events_ = now + kEventsInterval;
    std::array<::epoll_event, kEventsMax> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, 0);
    for (int i = 0; i < count; ++i) {
        const std::uint64_t name = events[static_cast<std::size_t>(i)].data.u64;
        if (name == kPorts) {
            ::eventfd_t ignored = 0;
            ::eventfd_read(port_changed_.get(), &ignored);
            next_check_ = now;
            continue;
        }
        if (name >= kChannels) {
            ::ibv_comp_channel* channel =
                channels_[static_cast<std::size_t>(name - kChannels)].get();
            ::ibv_cq* queue = nullptr;
            void* context = nullptr;
            while (::ibv_get_cq_event(channel, &queue, &context) == 0) {
                ::ibv_ack_cq_events(queue, 1);
            }
            armed_ = false;
            continue;
        }
        const LaneName lane = LaneName::decode(name);
        const auto found = links_.find(lane.link);
        if (found == links_.end()) continue;
        found->second->on_ready(lane.lane, now);
        start(*found->second, now);
    }
}

void VerbsFabric::check_links(TimePoint now) {
    for (const auto& [id, link] : links_) {
        link->check(now);
        link->pump(now);
    }
    for (auto link = leaving_.begin(); link != leaving_.end();) {
        (*link)->check(now);
        link = (*link)->settled() ? leaving_.erase(link) : link + 1;
    }
    reschedule();
    // A deadline that stays in the past is looked at now and then, not all the time.
    next_check_ = std::max(next_check_, now + kEventsInterval);
}

void VerbsFabric::reschedule() {
    next_check_ = TimePoint::max();
    for (const auto& [id, link] : links_) schedule(*link);
    for (const auto& link : leaving_) schedule(*link);
}

void VerbsFabric::schedule(const Link& link) {
    next_check_ = std::min(next_check_, link.deadline());
}

int VerbsFabric::wait_ms() const {
    if (!done_.empty() || (!armed_ && is_reading())) return 0;
    if (next_check_ == TimePoint::max()) return -1;
    const Duration left = next_check_ - system_clock().now();
    if (left <= Duration::zero()) return 0;
    return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
}

std::uint64_t VerbsFabric::port_rate() const {
    std::uint64_t rate = 0;
    for (const auto& rail : *rails_) rate += rail->choice().port.rate;
    return rate;
}

}  // namespace weightcast::transport::verbs

namespace weightcast::transport {

Result<std::unique_ptr<fabric::Fabric>> open_verbs(const fabric::FabricOptions& options) {
    WEIGHTCAST_TRY(auto fabric, verbs::VerbsFabric::open(options));
    return std::unique_ptr<fabric::Fabric>(std::move(fabric));
}

}  // namespace weightcast::transport
