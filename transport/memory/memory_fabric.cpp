#include "transport/memory/memory_fabric.h"

#include <fmt/core.h>

#include <algorithm>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "transport/memory/world.h"

namespace weightcast::transport {
namespace {

using fabric::Completion;
using fabric::LinkId;
using fabric::Read;
using fabric::ReadStatus;
using State = MemoryWorld::State;

constexpr std::string_view kScheme = "memory://";

class MemoryRegion final : public fabric::Region {
  public:
    MemoryRegion(std::shared_ptr<State> state, const std::string& owner,
                 const fabric::Memory& memory, fabric::Access access)
        : state_(std::move(state)), bytes_(memory.bytes) {
        if (access != fabric::Access::remote_read) return;
        key_ = state_->new_key();
        state_->regions.emplace(key_, State::Served{owner, memory});
    }
    ~MemoryRegion() override { state_->regions.erase(key_); }
    std::span<std::byte> bytes() const override { return bytes_; }
    fabric::RegionKey key() const override { return key_; }

  private:
    std::shared_ptr<State> state_;
    std::span<std::byte> bytes_;
    fabric::RegionKey key_;
};

class MemoryFabric final : public fabric::Fabric {
  public:
    MemoryFabric(std::shared_ptr<State> state, const fabric::FabricOptions& options,
                 std::string address)
        : state_(std::move(state)), options_(options), address_(std::move(address)) {
        self_ = state_->peers.at(address_);
    }
    ~MemoryFabric() override {
        if (std::exchange(self_->alive, false)) {
            std::erase_if(state_->regions,
                          [&](const auto& r) { return r.second.owner == address_; });
        }
    }

    const char* name() const override { return "memory"; }
    bool emulated() const override { return false; }
    std::string address() const override { return address_; }
    bool can_reach(const std::string& address) const override {
        return address.starts_with(kScheme);
    }
    Result<std::unique_ptr<fabric::Region>> register_memory(const fabric::Memory& memory,
                                                            fabric::Access access) override;
    LinkId connect(const fabric::PeerAddress& peer) override;
    void disconnect(LinkId link) override;
    std::string link_error(LinkId link) const override;
    void submit(std::span<const Read> reads) override;
    bool can_wait() const override { return true; }
    std::size_t poll(std::span<Completion> completions) override;
    int wait_fd() const override { return -1; }
    std::uint64_t bytes_served() const override { return self_->bytes_served; }

  private:
    struct Link {
        fabric::PeerAddress peer;
        bool established = false;  // the peer has answered
        ReadStatus failure = ReadStatus::ok;
        std::size_t outstanding = 0;
        std::size_t gated = 0;  // of these, those that may wait for a gate
        std::size_t lost = 0;   // of these, those that are never answered
        std::uint64_t progress_ms = 0;
    };
    struct Pending {
        Read read;
        std::uint64_t due_poll = 0;
        bool lost = false;
    };

    std::uint64_t now_ms() const;
    // Why the link cannot be used now; ok if it can, whether its peer is paused or not.
    ReadStatus check(const Link& link) const;
    void check_links();
    void fail(Link& link, LinkId id, ReadStatus status);
    // True if the read has its answer now.
    bool try_complete(const Pending& pending, ReadStatus& status);
    void deliver(std::span<Completion> completions, std::size_t& count);

    std::shared_ptr<State> state_;
    const fabric::FabricOptions options_;
    const std::string address_;
    std::shared_ptr<State::Peer> self_;
    std::unordered_map<std::uint32_t, Link> links_;
    std::uint32_t next_link_ = 1;
    std::uint64_t polls_ = 0;
    std::vector<Pending> pending_;
    std::vector<Completion> done_;
};

Result<std::unique_ptr<fabric::Region>> MemoryFabric::register_memory(const fabric::Memory& memory,
                                                                      fabric::Access access) {
    WEIGHTCAST_CHECK(fabric::check_memory(name(), memory));
    return std::unique_ptr<fabric::Region>(
        std::make_unique<MemoryRegion>(state_, address_, memory, access));
}

std::uint64_t MemoryFabric::now_ms() const {
    if (state_->clock == nullptr) return polls_;
    const auto since = state_->clock->now().time_since_epoch();
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(since).count());
}

LinkId MemoryFabric::connect(const fabric::PeerAddress& peer) {
    const LinkId id(next_link_++);
    links_.emplace(id.value, Link{.peer = peer, .progress_ms = now_ms()});
    return id;
}

void MemoryFabric::disconnect(LinkId link) {
    const auto found = links_.find(link.value);
    if (found == links_.end()) return;
    fail(found->second, link, ReadStatus::cancelled);
    links_.erase(found);
}

std::string MemoryFabric::link_error(LinkId link) const {
    const auto found = links_.find(link.value);
    if (found == links_.end()) return "the link is disconnected";
    const Link& it = found->second;
    if (it.failure == ReadStatus::ok) return {};
    return fmt::format("{}: {}", it.peer.address, fabric::to_string(it.failure));
}

void MemoryFabric::submit(std::span<const Read> reads) {
    for (const Read& read : reads) {
        WEIGHTCAST_ASSERT(read.local != nullptr && read.bytes > 0);
        const std::uint64_t size = read.local->bytes().size();
        WEIGHTCAST_ASSERT(read.local_offset <= size && read.bytes <= size - read.local_offset);
        const auto found = links_.find(read.link.value);
        if (found == links_.end() || found->second.failure != ReadStatus::ok) {
            const bool known = found != links_.end();
            done_.push_back({read.tag, known ? found->second.failure : ReadStatus::unreachable});
            continue;
        }
        Link& link = found->second;
        if (link.outstanding++ == 0) link.progress_ms = now_ms();
        Pending pending{read, polls_ + 1, false};
        const auto peer = state_->peers.find(link.peer.address);
        if (peer != state_->peers.end()) {
            const MemoryFaults& faults = peer->second->faults;
            WEIGHTCAST_ASSERT(faults.delay_polls_min <= faults.delay_polls_max);
            pending.due_poll +=
                faults.delay_polls_min +
                state_->random.below(faults.delay_polls_max - faults.delay_polls_min + 1ULL);
            pending.lost = faults.loss > 0 && state_->random.unit() < faults.loss;
        }
        link.gated += !read.gate.empty();
        link.lost += pending.lost;
        pending_.push_back(pending);
    }
}

ReadStatus MemoryFabric::check(const Link& link) const {
    const auto found = state_->peers.find(link.peer.address);
    if (found == state_->peers.end() || !found->second->alive) return ReadStatus::unreachable;
    if (found->second->incarnation == link.peer.incarnation) return ReadStatus::ok;
    return link.established ? ReadStatus::unreachable : ReadStatus::stale_peer;
}

void MemoryFabric::fail(Link& link, LinkId id, ReadStatus status) {
    if (link.failure != ReadStatus::ok) return;
    link.failure = status;
    link.outstanding = link.gated = link.lost = 0;
    std::erase_if(pending_, [&](const Pending& pending) {
        if (pending.read.link != id) return false;
        done_.push_back({pending.read.tag, status});
        return true;
    });
}

void MemoryFabric::check_links() {
    for (std::uint32_t id = 1; id < next_link_; ++id) {
        const auto found = links_.find(id);
        if (found == links_.end() || found->second.failure != ReadStatus::ok) continue;
        Link& link = found->second;
        const ReadStatus status = check(link);
        // The holder of reads that wait says that it is there; but a lost read must time out.
        const bool there = status == ReadStatus::ok && !state_->peers.at(link.peer.address)->paused;
        if (there && link.gated > 0 && link.lost == 0) link.progress_ms = now_ms();
        const bool waits = link.outstanding > 0 || !link.established;
        if (status == ReadStatus::unreachable) {
            fail(link, LinkId(id), status);
        } else if (waits && now_ms() - link.progress_ms >= options_.progress_ms_max) {
            fail(link, LinkId(id), ReadStatus::timed_out);
        } else if (!state_->peers.at(link.peer.address)->paused) {
            if (status == ReadStatus::ok) {
                link.established = true;
            } else {
                fail(link, LinkId(id), status);
            }
        }
    }
}

bool MemoryFabric::try_complete(const Pending& pending, ReadStatus& status) {
    if (pending.lost || pending.due_poll > polls_) return false;
    Link& link = links_.at(pending.read.link.value);
    if (state_->peers.at(link.peer.address)->paused) return false;
    const State::Gate gate = state_->gate(link.peer.address, pending.read);
    if (gate == State::Gate::closed) return false;
    status = gate == State::Gate::open ? state_->copy(link.peer.address, pending.read)
                                       : ReadStatus::access_denied;
    link.progress_ms = now_ms();
    --link.outstanding;
    link.gated -= !pending.read.gate.empty();
    return true;
}

void MemoryFabric::deliver(std::span<Completion> completions, std::size_t& count) {
    while (count < completions.size() && !done_.empty()) {
        const auto index = static_cast<std::size_t>(state_->random.below(done_.size()));
        std::swap(done_[index], done_.back());
        completions[count++] = done_.back();
        done_.pop_back();
    }
}

std::size_t MemoryFabric::poll(std::span<Completion> completions) {
    ++polls_;
    std::size_t count = 0;
    if (!self_->alive || self_->paused) return count;
    check_links();
    deliver(completions, count);
    // Starts at a random read and takes what is due in random order.
    for (std::size_t left = pending_.size(); left > 0 && count < completions.size(); --left) {
        const auto index = static_cast<std::size_t>(state_->random.below(left));
        ReadStatus status = ReadStatus::ok;
        if (try_complete(pending_[index], status)) {
            completions[count++] = {pending_[index].read.tag, status};
            std::swap(pending_[index], pending_[left - 1]);
            std::swap(pending_[left - 1], pending_.back());
            pending_.pop_back();
        } else {
            std::swap(pending_[index], pending_[left - 1]);
        }
    }
    return count;
}

}  // namespace

Result<std::unique_ptr<fabric::Fabric>> MemoryWorld::open(const fabric::FabricOptions& options,
                                                          const std::string& address) {
    std::string chosen = address;
    while (chosen.empty() || (address.empty() && state_->peers.contains(chosen))) {
        chosen = fmt::format("{}{}", kScheme, state_->next_address++);
    }
    if (!chosen.starts_with(kScheme)) {
        return Error{Code::invalid_input, 0, fmt::format("'{}' is no memory address", chosen)};
    }
    const auto found = state_->peers.find(chosen);
    if (found != state_->peers.end() && found->second->alive) {
        return Error{Code::conflict, 0, fmt::format("{} is in use", chosen)};
    }
    auto peer = std::make_shared<State::Peer>();
    peer->incarnation = options.incarnation;
    state_->peers[chosen] = std::move(peer);
    return std::unique_ptr<fabric::Fabric>(std::make_unique<MemoryFabric>(state_, options, chosen));
}

}  // namespace weightcast::transport
