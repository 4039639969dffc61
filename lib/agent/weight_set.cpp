// Weights in memory that follow a channel: two slots, or one that is overwritten.
#include "weightcast/weight_set.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "agent/node_impl.h"
#include "base/log.h"

namespace weightcast {
namespace agent {

// Who reads counts itself in `readers` first and then looks whether the slot is still the current
// one; who writes makes another slot the current one first and then waits until nobody reads. Both
// in sequentially consistent order, so one of the two sees the other. Slots are never freed while
// snapshots exist, hence a reader that was late has touched a counter and nothing else.
struct WeightSlot {
    alignas(64) std::atomic<std::uint32_t> readers{0};
    // The rest changes only while this is not the current slot and nobody reads.
    alignas(64) std::uint64_t version = 0;
    NodeImpl::Arena arena;
    // Of the newest move to this version: a channel may move away and back while this is current.
    std::atomic<std::uint64_t> generation{0};
};

namespace {

constexpr std::chrono::milliseconds kReadersLook{1};
constexpr auto kReadersWarning = std::chrono::seconds(10);

class FollowedWeights final : public WeightSet, private FollowTarget {
  public:
    FollowedWeights(NodeImpl& node, WeightSetOptions options)
        : node_(node), options_(std::move(options)) {}
    ~FollowedWeights() override {
        stop_.request_stop();
        if (thread_.joinable()) thread_.join();
        for (WeightSlot& slot : slots_) node_.let_go(slot.arena.held);
    }

    Result<void> open() {
        WEIGHTCAST_TRY(loop_, node_.follow(options_.pull, *this));
        thread_ = std::thread([this] {
            const auto ended = loop_->run(stop_.get_token());
            if (!ended) tell(ended.error());
        });
        return success();
    }

    bool wait_for(std::uint64_t generation, std::chrono::milliseconds wait) const override {
        std::unique_lock lock(mutex_);
        return flipped_.wait_for(lock, wait, [&] { return generation_ >= generation; });
    }

  private:
    WeightSlot* acquire_slot() const override {
        for (;;) {
            WeightSlot* const slot = current_.load();
            if (slot == nullptr) return nullptr;
            slot->readers.fetch_add(1);
            if (current_.load() == slot) return slot;
            slot->readers.fetch_sub(1);
        }
    }

    Result<void> stage(const registry::ChannelInfo& to, const std::stop_token& stop) override {
        WeightSlot* const current = current_.load();
        staged_ = options_.in_place || current != &slots_[0] ? &slots_[0] : &slots_[1];
        if (current != nullptr && current->version == to.version) {  // Moved away and back.
            staged_ = current;
            report_ = {.model = to.model, .version = to.version};
            return success();
        }
        PullOptions pull = options_.pull;
        pull.reference = fmt::format("@{}", to.version);
        pull.stop = stop;
        NodeImpl::Arena& arena = staged_->arena;
        // Not with a read lease in hand, which would keep a publisher waiting, too. In place
        // readers go on until all else is known to be well.
        if (!options_.in_place) WEIGHTCAST_CHECK(wait_until_unread(stop));
        WEIGHTCAST_CHECK(node_.pull_into(pull, arena, [&]() -> Result<void> {
            WEIGHTCAST_CHECK(node_.give_up(arena.held));
            if (!options_.in_place) return success();
            WEIGHTCAST_CHECK(pause(to));
            return wait_until_unread(stop);
        }));
        node_.remember(arena.held);
        report_ = arena.report;
        staged_->version = to.version;
        return success();
    }

    Result<void> flip(const registry::ChannelInfo& to, const std::stop_token& stop) override {
        report_.generation = to.generation;
        const Flip flip{to.version, to.generation, report_};
        if (!options_.in_place && options_.before_flip) {
            WEIGHTCAST_CHECK(options_.before_flip(flip));
            // The hook may have waited long, and this version may be one that was rolled back.
            if (stop.stop_requested()) return Error{Code::cancelled, 0, "not wanted any more"};
        }
        staged_->generation = to.generation;
        current_.store(staged_);
        {
            const std::lock_guard lock(mutex_);
            generation_ = to.generation;
        }
        flipped_.notify_all();
        paused_ = false;
        if (options_.after_flip) options_.after_flip(flip);
        return success();
    }

    void on_trouble(const registry::ChannelInfo& to, const Error& error) override {
        const WeightSlot* const current = current_.load();
        const std::string now = current != nullptr ? fmt::format("@{} stays", current->version)
                                                   : "there is no version in memory now";
        tell(
            {error.code, error.sys_errno,
             fmt::format("{}@{} cannot be had, {}: {}", to.model, to.version, now, error.message)});
    }

    void tell(const Error& error) const {
        log(LogLevel::warning, "{}", error.message);
        if (options_.on_trouble) options_.on_trouble(error);
    }

    // Before the only copy is overwritten: no new reader from here on.
    Result<void> pause(const registry::ChannelInfo& to) {
        if (paused_) return success();
        if (options_.before_flip) {
            WEIGHTCAST_CHECK(options_.before_flip({to.version, to.generation, {}}));
        }
        paused_ = true;
        current_.store(nullptr);
        return success();
    }

    Result<void> wait_until_unread(const std::stop_token& stop) const {
        const TimePoint start = system_clock().now();
        bool warned = false;
        while (staged_->readers.load() != 0) {
            if (stop.stop_requested()) return Error{Code::cancelled, 0, "not wanted any more"};
            std::this_thread::sleep_for(kReadersLook);
            if (warned || system_clock().now() - start < kReadersWarning) continue;
            warned = true;
            log(LogLevel::warning, "a snapshot of generation {} keeps the next version waiting",
                staged_->generation.load());
        }
        return success();
    }

    NodeImpl& node_;
    const WeightSetOptions options_;
    std::unique_ptr<FollowLoop> loop_;
    std::stop_source stop_;
    std::thread thread_;

    std::array<WeightSlot, 2> slots_;
    std::atomic<WeightSlot*> current_{nullptr};
    WeightSlot* staged_ = nullptr;
    PullReport report_;  // of what is staged
    bool paused_ = false;

    mutable std::mutex mutex_;
    mutable std::condition_variable flipped_;
    std::uint64_t generation_ = 0;  // guarded by mutex_
};

}  // namespace

Result<std::unique_ptr<WeightSet>> NodeImpl::follow_memory(const WeightSetOptions& options) {
    auto weights = std::make_unique<FollowedWeights>(*this, options);
    WEIGHTCAST_CHECK(weights->open());
    return std::unique_ptr<WeightSet>(std::move(weights));
}

}  // namespace agent

Snapshot::~Snapshot() {
    if (slot_ != nullptr) slot_->readers.fetch_sub(1);
}

std::uint64_t Snapshot::version() const { return slot_->version; }
std::uint64_t Snapshot::generation() const { return slot_->generation; }
std::span<const TensorView> Snapshot::tensors() const { return slot_->arena.tensors; }

const TensorView* Snapshot::tensor(std::string_view name) const {
    const auto tensors = this->tensors();
    const auto found = std::ranges::lower_bound(tensors, name, {}, &TensorView::name);
    return found != tensors.end() && found->name == name ? &*found : nullptr;
}

}  // namespace weightcast
