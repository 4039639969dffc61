// What becomes of a link's lanes that fail, lag or lose their port, and when the link itself fails.
#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "transport/verbs/link.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::ReadStatus;

// Before a lane that failed is opened again: doubled with each failure in a row, give or take half.
// After the first read that was refused there is nothing to wait for.
constexpr auto kBackoffHarmless = std::chrono::milliseconds(1);
constexpr auto kBackoffFirst = std::chrono::milliseconds(200);
constexpr std::uint32_t kDoublingsMax = 5;
// A lane that settles nothing for this part of the link's patience, while another lane does, lags.
constexpr int kLagDivisor = 4;

Duration backoff(const Lane& lane, Random& random) {
    const bool harmless = lane.failure().harmless;
    if (harmless && lane.failures <= 1) return Duration::zero();
    const Duration base = harmless ? Duration(kBackoffHarmless) : Duration(kBackoffFirst);
    const std::uint32_t doublings = std::min(lane.failures - 1, kDoublingsMax);
    return std::chrono::duration_cast<Duration>(base * (0.5 + random.unit())) *
           (std::int64_t{1} << doublings);
}

bool is_live(const Lane& lane) {
    return lane.state() == Lane::State::ready || lane.state() == Lane::State::connecting;
}

}  // namespace

void Link::review(TimePoint now) {
    if (failed_) return;
    bool hope = false;  // that a lane carries reads, now or as soon as it is open again
    const Lane* last = nullptr;
    for (const auto& lane : lanes_) {
        if (lane->state() == Lane::State::down &&
            lane->failure().status == ReadStatus::stale_peer) {
            return fail(lane->failure(), now);
        }
        const bool new_failure = lane->state() == Lane::State::down && lane->failures > 0 &&
                                 lane->retry_at == TimePoint{};
        if (new_failure) {
            lane->retry_at = now + backoff(*lane, shared_.random);
            if (!lane->failure().harmless && lanes_.size() > 1) {
                log(LogLevel::warning, "verbs: a lane to {} over {} cools down: {}", peer_.address,
                    lane->rail().name(), lane->failure().text);
            }
        }
        const bool soon = lane->state() == Lane::State::down && lane->failure().harmless;
        hope = hope || soon || is_live(*lane) || lane->state() == Lane::State::draining;
        if (lane->state() == Lane::State::down) last = lane.get();
    }
    if (hope || last == nullptr) return;
    LaneFailure failure = last->failure();
    if (failure.text.empty()) failure.text = "the port " + last->rail().name() + " is down";
    fail(std::move(failure), now);
}

void Link::fail(LaneFailure failure, TimePoint now) {
    if (failed_) return;
    failed_ = true;
    status_ = failure.status;
    error_ = fmt::format("{}: {}", peer_.address, failure.text);
    while (!queue_.empty()) {
        const std::uint32_t index = queue_.pop();
        Operation& operation = shared_.operations[index];
        if (operation.status == ReadStatus::ok) operation.status = status_;
        finish_if_done(index);
    }
    for (const Piece& piece : std::exchange(retries_, {})) on_piece(piece, PieceOutcome::again);
    // What the devices hold comes back while the lanes drain.
    for (const auto& lane : lanes_) lane->fail({status_, failure.text, false}, now);
}

void Link::abandon() {
    fail({ReadStatus::cancelled, "the fabric is closed", false}, TimePoint{});
    for (const auto& lane : lanes_) lane->close();
}

void Link::check(TimePoint now) {
    const auto patience = std::chrono::milliseconds(shared_.options.progress_ms_max);
    for (const auto& owned : lanes_) {
        Lane& lane = *owned;
        if (lane.state() == Lane::State::draining && lane.drain_deadline() <= now) lane.close();
        if (is_live(lane) && !lane.rail().up) {
            lane.fail(
                {ReadStatus::unreachable, "the port " + lane.rail().name() + " is down", false},
                now);
        }
        const bool lags = lane.state() == Lane::State::ready && lane.outstanding() > 0 &&
                          now - lane.progress() > patience / kLagDivisor &&
                          now - progress_ < patience / kLagDivisor && lanes_.size() > 1;
        if (lags) {
            lane.fail({ReadStatus::timed_out,
                       fmt::format("nothing came for {} ms, over other rails it did",
                                   shared_.options.progress_ms_max / kLagDivisor),
                       false},
                      now);
        }
        const bool again = !failed_ && lane.state() == Lane::State::down &&
                           lane.retry_at != TimePoint{} && lane.retry_at <= now && lane.rail().up;
        if (again) {
            lane.retry_at = {};
            open_lane(lane, now);
        }
    }
    review(now);
    const bool ready = std::ranges::any_of(
        lanes_, [](const auto& lane) { return lane->state() == Lane::State::ready; });
    const bool waits = has_work() || !ready;
    if (!failed_ && waits && now - progress_ >= patience) {
        fail({ReadStatus::timed_out,
              fmt::format("no progress for {} ms", shared_.options.progress_ms_max), false},
             now);
    }
}

TimePoint Link::deadline() const {
    const auto patience = std::chrono::milliseconds(shared_.options.progress_ms_max);
    TimePoint next = TimePoint::max();
    bool ready = false;
    for (const auto& lane : lanes_) {
        ready = ready || lane->state() == Lane::State::ready;
        if (lane->state() == Lane::State::draining) next = std::min(next, lane->drain_deadline());
        const bool retry = !failed_ && lane->state() == Lane::State::down &&
                           lane->retry_at != TimePoint{} && lane->rail().up;
        if (retry) next = std::min(next, lane->retry_at);
        if (lanes_.size() > 1 && lane->outstanding() > 0) {
            next = std::min(next, lane->progress() + patience / kLagDivisor);
        }
    }
    if (!failed_ && (has_work() || !ready)) next = std::min(next, progress_ + patience);
    return next;
}

}  // namespace weightcast::transport::verbs
