#include "agent/follow_loop.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/log.h"

namespace weightcast::agent {
namespace {

constexpr std::chrono::hours kWatchWait{1};
constexpr Duration kRetryFirst = std::chrono::milliseconds(100);
constexpr Duration kRetryMax = std::chrono::seconds(5);
constexpr std::uint32_t kRetryDoublings = 6;

Error superseded_error(const registry::ChannelInfo& to) {
    return {
        Code::cancelled, 0,
        fmt::format("{}:{} has moved on from generation {}", to.model, to.channel, to.generation)};
}

}  // namespace

FollowLoop::FollowLoop(std::unique_ptr<registry::ChannelWatch> watch, Ask ask, Choose choose,
                       FollowTarget& target)
    : watch_(std::move(watch)),
      ask_(std::move(ask)),
      choose_(std::move(choose)),
      target_(target),
      random_(random_seed()) {}

void FollowLoop::on_move(const registry::ChannelInfo& to) {
    const std::lock_guard lock(mutex_);
    if (newest_ && newest_->generation > to.generation) {
        log(LogLevel::warning,
            "{}:{} is at generation {} at the registry, and this follower at {}: its store was "
            "lost or replaced; not followed until it is beyond that, or this follower is "
            "restarted",
            to.model, to.channel, to.generation, newest_->generation);
    }
    if (newest_ && newest_->generation >= to.generation) return;
    newest_ = to;
    newest_->version = choose_(to);
    staging_.request_stop();
    wake_.notify_all();
}

void FollowLoop::watch() {
    std::uint64_t known = 0;
    for (;;) {
        const auto moved = watch_->next(known, kWatchWait);
        if (!moved) {
            const std::lock_guard lock(mutex_);
            if (moved.error().code != Code::cancelled) failure_ = moved.error();
            wake_.notify_all();
            return;
        }
        if (!moved.value()) continue;
        known = moved.value()->generation;
        on_move(*moved.value());
    }
}

Result<void> FollowLoop::bring(const registry::ChannelInfo& to, const std::stop_token& superseded) {
    WEIGHTCAST_CHECK(target_.stage(to, superseded));
    // If the registry does not answer, what it said last is what counts.
    if (const auto now = ask_()) on_move(now.value());
    if (superseded.stop_requested()) return superseded_error(to);
    return target_.flip(to);
}

Result<void> FollowLoop::run(const std::stop_token& stop) {
    std::thread watcher([this] { watch(); });
    {
        const std::stop_callback stopping(stop, [this] {
            watch_->cancel();
            const std::lock_guard lock(mutex_);
            staging_.request_stop();
        });
        std::uint64_t reached = 0;
        std::uint32_t failures = 0;
        std::unique_lock lock(mutex_);
        const auto moved_on = [this](std::uint64_t from) {
            return failure_ || (newest_ && newest_->generation > from);
        };
        for (;;) {
            wake_.wait(lock, stop, [&] { return moved_on(reached); });
            if (stop.stop_requested() || failure_) break;
            const registry::ChannelInfo to = *newest_;
            staging_ = std::stop_source();
            const std::stop_token superseded = staging_.get_token();
            lock.unlock();
            const auto outcome = bring(to, superseded);
            lock.lock();
            if (outcome) reached = to.generation;
            if (outcome || stop.stop_requested() || moved_on(to.generation)) {
                failures = 0;
                continue;
            }
            lock.unlock();
            target_.on_trouble(to, outcome.error());
            lock.lock();
            const Duration wait =
                std::min(kRetryMax, kRetryFirst * (1U << std::min(failures++, kRetryDoublings)));
            wake_.wait_for(lock, stop,
                           std::chrono::duration_cast<Duration>(wait * (0.5 + random_.unit() / 2)),
                           [&] { return moved_on(to.generation); });
        }
    }
    watch_->cancel();
    watcher.join();
    return failure_ ? Result<void>(*failure_) : success();
}

}  // namespace weightcast::agent
