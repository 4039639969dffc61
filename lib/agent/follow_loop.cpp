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
constexpr std::uint32_t kSupersededMax = 3;  // in a row, before one is finished in any case
constexpr std::chrono::milliseconds kClusterLook{200};  // for the cluster of an older generation

Error superseded_error(const registry::ChannelInfo& to) {
    return {
        Code::cancelled, 0,
        fmt::format("{}:{} has moved on from generation {}", to.model, to.channel, to.generation)};
}

Error too_fast_error(const registry::ChannelInfo& to) {
    return {Code::unavailable, 0,
            fmt::format("{}:{} moved on {} times before a version was here; the next one is "
                        "finished even if it moves on again",
                        to.model, to.channel, kSupersededMax)};
}

}  // namespace

FollowLoop::FollowLoop(std::unique_ptr<registry::ChannelWatch> watch, Ask ask, Cluster cluster,
                       Choose choose, FollowTarget& target)
    : watch_(std::move(watch)),
      ask_(std::move(ask)),
      cluster_(std::move(cluster)),
      choose_(std::move(choose)),
      target_(target),
      random_(random_seed()) {}

bool FollowLoop::on_move(const registry::ChannelInfo& to) {
    const std::string cluster = cluster_();
    const std::lock_guard lock(mutex_);
    const bool same = newest_of_ == cluster;
    if (newest_ && same && newest_->generation > to.generation) return false;
    if (newest_ && same && newest_->generation == to.generation) return true;
    if (newest_ && !same) {
        log(LogLevel::warning, "{}:{} is at generation {} at another registry than before",
            to.model, to.channel, to.generation);
        reached_ = 0;
    }
    newest_ = to;
    newest_of_ = cluster;
    newest_->version = choose_(to);
    const bool finish = superseded_ >= kSupersededMax && newest_->version >= staged_version_;
    if (!finish) staging_.request_stop();
    wake_.notify_all();
    return true;
}

void FollowLoop::watch() {
    std::uint64_t known = 0;
    std::optional<registry::ChannelInfo> older;
    for (;;) {
        const auto moved = watch_->next(known, older ? kClusterLook : kWatchWait);
        if (!moved) {
            const std::lock_guard lock(mutex_);
            if (moved.error().code != Code::cancelled) failure_ = moved.error();
            wake_.notify_all();
            return;
        }
        const bool was_older = older.has_value();
        if (moved.value()) older = *moved.value();
        if (!older) continue;
        known = older->generation;
        if (on_move(*older)) {
            older.reset();
        } else if (!was_older) {
            log(LogLevel::warning,
                "{}:{} is at generation {} at the registry, which is less than this follower has "
                "seen of it: its store was replaced by an older one; not followed until it is "
                "beyond that",
                older->model, older->channel, older->generation);
        }
    }
}

Result<void> FollowLoop::bring(const registry::ChannelInfo& to, const std::stop_token& superseded) {
    WEIGHTCAST_CHECK(target_.stage(to, superseded));
    // If the registry does not answer, what it said last is what counts.
    if (const auto now = ask_()) on_move(now.value());
    if (superseded.stop_requested()) return superseded_error(to);
    return target_.flip(to, superseded);
}

Result<void> FollowLoop::run(const std::stop_token& stop) {
    std::thread watcher([this] { watch(); });
    {
        const std::stop_callback stopping(stop, [this] {
            watch_->cancel();
            const std::lock_guard lock(mutex_);
            staging_.request_stop();
        });
        std::uint32_t failures = 0;
        std::unique_lock lock(mutex_);
        const auto moved_on = [this](const registry::ChannelInfo& from) {
            return failure_ || newest_->generation != from.generation;
        };
        for (;;) {
            wake_.wait(lock, stop,
                       [&] { return failure_ || (newest_ && newest_->generation > reached_); });
            if (stop.stop_requested() || failure_) break;
            const registry::ChannelInfo to = *newest_;
            const std::string of = newest_of_;
            staged_version_ = to.version;
            staging_ = std::stop_source();
            const std::stop_token superseded = staging_.get_token();
            lock.unlock();
            const auto outcome = bring(to, superseded);
            lock.lock();
            if (outcome && of == newest_of_) reached_ = to.generation;
            const bool stopped = !outcome && outcome.error().code == Code::cancelled;
            superseded_ = stopped && superseded_ < kSupersededMax ? superseded_ + 1 : 0;
            if (outcome || stop.stop_requested() || moved_on(to)) {
                failures = 0;
                if (superseded_ < kSupersededMax || stop.stop_requested()) continue;
                lock.unlock();
                target_.on_trouble(to, too_fast_error(to));
                lock.lock();
                continue;
            }
            lock.unlock();
            target_.on_trouble(to, outcome.error());
            lock.lock();
            const Duration wait =
                std::min(kRetryMax, kRetryFirst * (1U << std::min(failures++, kRetryDoublings)));
            wake_.wait_for(lock, stop,
                           std::chrono::duration_cast<Duration>(wait * (0.5 + random_.unit() / 2)),
                           [&] { return moved_on(to); });
        }
    }
    watch_->cancel();
    watcher.join();
    return failure_ ? Result<void>(*failure_) : success();
}

}  // namespace weightcast::agent
