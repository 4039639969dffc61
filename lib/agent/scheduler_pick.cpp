// Which chunk to read from which holder next.
#include "agent/scheduler.h"
#include "base/assert.h"

namespace weightcast::agent {
namespace {

constexpr int kSamples = 24;  // of the open chunks, to find a rare one

}  // namespace

std::uint32_t PullScheduler::window(const Holder& holder) const {
    const double queued = holder.rate * seconds(options_.queue_target);
    const double chunks = queued / static_cast<double>(chunk_bytes_) + options_.window_min;
    return static_cast<std::uint32_t>(std::min(chunks, static_cast<double>(options_.window_max)));
}

// Beyond its window, which may be full of chunks that it has not got yet.
bool PullScheduler::has_room_to_help(const Holder& holder) const {
    if (!any_stripe_open() || stripes_.empty()) return has_room(holder);
    return holder.live && holder.paged &&
           holder.outstanding.size() < std::size_t{2} * window(holder);
}

bool PullScheduler::has_room(const Holder& holder) const {
    const bool known = holder.paged || (holder.role.stripes != 0 && holder.traits.can_wait);
    return holder.live && known && holder.outstanding.size() < window(holder);
}

// What is read from a parent goes on for long: several chunks are asked for at once, since a
// message costs both ends more time than its bytes. But no stripe waits for another of the parent.
bool PullScheduler::may_refill(HolderIndex index) const {
    const Holder& holder = holders_[index];
    const std::uint32_t most = window(holder);
    if (holder.role.stripes == 0 || holder.outstanding.size() + most / 2 <= most) return true;
    for (std::size_t s = 0; s < stripes_.size(); ++s) {
        const auto of_stripe = [&](const Outstanding& read) {
            return read.chunk % stripes_.size() == s;
        };
        if (stripes_[s].parent == index && std::ranges::none_of(holder.outstanding, of_stripe)) {
            return true;
        }
    }
    return false;
}

// True if another live holder has the chunk.
bool PullScheduler::elsewhere(HolderIndex index, std::uint32_t chunk) const {
    for (HolderIndex other = 0; other < holders_.size(); ++other) {
        if (other != index && holders_[other].live && has(holders_[other], chunk)) return true;
    }
    return false;
}

bool PullScheduler::better_elsewhere(HolderIndex index, std::uint32_t chunk) const {
    const Holder& self = holders_[index];
    return std::any_of(holders_.begin(), holders_.end(), [&](const Holder& other) {
        const bool nearer = other.traits.distance < self.traits.distance;
        const bool relay =
            other.traits.distance == self.traits.distance && !other.complete && self.complete;
        if (!nearer && !relay) return false;
        const auto number = static_cast<HolderIndex>(&other - holders_.data());
        const bool capped = other.traits.rate_max != 0 && other.tokens <= 0;
        const bool lied = chunks_[chunk].last_corrupt == number;
        return !capped && !lied && has_room(other) && other.refills && has(other, chunk);
    });
}

bool PullScheduler::acceptable(HolderIndex index, std::uint32_t chunk) const {
    if (chunks_[chunk].last_corrupt == index && elsewhere(index, chunk)) return false;
    return left_to(index, chunk) && !better_elsewhere(index, chunk);
}

std::int64_t PullScheduler::pick_relay(HolderIndex index) {
    auto& candidates = holders_[index].candidates;
    std::int64_t best = -1;
    for (int sample = 0; sample < kSamples && !candidates.empty(); ++sample) {
        const auto at = static_cast<std::size_t>(random_.below(candidates.size()));
        const std::uint32_t chunk = candidates[at];
        if (chunks_[chunk].state != State::open) {
            candidates[at] = candidates.back();
            candidates.pop_back();
            continue;
        }
        if (!acceptable(index, chunk)) continue;
        if (best < 0 || chunks_[chunk].relays < chunks_[static_cast<std::size_t>(best)].relays) {
            best = chunk;
        }
    }
    return best;
}

std::int64_t PullScheduler::pick_complete(HolderIndex index) {
    const Holder& holder = holders_[index];
    if (open_.empty()) return -1;
    if (!relays_seen_) {
        for (std::size_t step = 0; step < chunks_.size(); ++step) {
            const std::uint32_t chunk = cursor_;
            const bool fits = chunks_[chunk].state == State::open && has(holder, chunk) &&
                              acceptable(index, chunk);
            if (fits) return chunk;
            cursor_ = cursor_ + 1 == chunks_.size() ? 0 : cursor_ + 1;
        }
        return -1;
    }
    std::int64_t best = -1;
    const int samples = std::min<int>(kSamples, static_cast<int>(open_.size()) * 2);
    for (int sample = 0; sample < samples; ++sample) {
        const std::uint32_t chunk = open_[static_cast<std::size_t>(random_.below(open_.size()))];
        if (!has(holder, chunk) || !acceptable(index, chunk)) continue;
        if (best < 0 || chunks_[chunk].relays < chunks_[static_cast<std::size_t>(best)].relays) {
            best = chunk;
        }
        if (chunks_[static_cast<std::size_t>(best)].relays == 0) break;
    }
    return best;
}

// The oldest read outstanding elsewhere, if this holder can be expected to be done with it sooner.
std::int64_t PullScheduler::pick_steal(HolderIndex index, TimePoint now) {
    if (!open_.empty()) return -1;
    const Holder& thief = holders_[index];
    Duration patience = options_.steal_after;
    if (thief.rate > 0) {
        const double queue = static_cast<double>((thief.outstanding.size() + 1) * chunk_bytes_);
        patience = std::max(patience, std::chrono::duration_cast<Duration>(
                                          std::chrono::duration<double>(2 * queue / thief.rate)));
    }
    std::int64_t oldest = -1;
    TimePoint since = TimePoint::max();
    for (HolderIndex other = 0; other < holders_.size(); ++other) {
        if (other == index) continue;
        for (const Outstanding& read : holders_[other].outstanding) {
            const Chunk& chunk = chunks_[read.chunk];
            if (chunk.state != State::asked || chunk.copies > 1 || read.since >= since) continue;
            if (!has(thief, read.chunk) || chunk.last_corrupt == index) continue;
            oldest = read.chunk;
            since = read.since;
        }
    }
    if (oldest < 0) return -1;
    if (now - since >= patience) return oldest;
    due(since + patience);
    return -1;
}

// False if the holder's rate cap allows no read now.
bool PullScheduler::allowed(Holder& holder, TimePoint now) {
    if (holder.traits.rate_max == 0) return true;
    const auto rate = static_cast<double>(holder.traits.rate_max);
    const double burst = std::max(2.0 * static_cast<double>(chunk_bytes_), rate / 20);
    holder.tokens = std::min(burst, holder.tokens + rate * seconds(now - holder.tokens_at));
    holder.tokens_at = now;
    if (holder.tokens > 0) return true;
    const auto wait = std::chrono::duration<double>(-holder.tokens / rate);
    due(now + std::chrono::duration_cast<Duration>(wait) + std::chrono::microseconds(100));
    return false;
}

std::int64_t PullScheduler::pick(HolderIndex index) {
    const Holder& holder = holders_[index];
    if (holder.role.stripes != 0) {
        const std::int64_t planned = pick_planned(index);
        if (planned >= 0) return planned;
    }
    if (!holder.paged || !(any_stripe_open() || idle_parent(index))) return -1;
    return holder.complete ? pick_complete(index) : pick_relay(index);
}

void PullScheduler::ask(HolderIndex index, std::uint32_t chunk, TimePoint now,
                        std::vector<Action>& actions) {
    Holder& holder = holders_[index];
    Chunk& c = chunks_[chunk];
    if (c.state == State::open) close(chunk);
    c.state = State::asked;
    ++c.copies;
    ++in_flight_;
    if (holder.outstanding.empty()) {
        holder.period_start = now;
        holder.period_bytes = 0;
    }
    const bool gated = !has(holder, chunk);
    holder.outstanding.push_back({chunk, now, gated});
    if (holder.traits.rate_max != 0) holder.tokens -= static_cast<double>(chunk_bytes_);
    actions.push_back({Action::Kind::read_chunk, index, chunk, c.copies > 1, gated});
}

void PullScheduler::pages(TimePoint now, std::vector<Action>& actions) {
    for (HolderIndex index = 0; index < holders_.size(); ++index) {
        Holder& holder = holders_[index];
        if (!holder.live || holder.complete || holder.page_pending) continue;
        // A fleet that starts has better things to do than to connect for what it does not need.
        const bool later = holder.page_first > holder.page_due && !needs_page(holder);
        const TimePoint when = later ? holder.page_first : holder.page_due;
        if (when > now) {
            due(when);
            continue;
        }
        holder.page_pending = true;
        holder.page_asked = now;
        actions.push_back({Action::Kind::read_page, index});
    }
}

void PullScheduler::next_actions(TimePoint now, std::vector<Action>& actions) {
    // Who is called late is not to call others late: on an overloaded host all are.
    const Duration late = now > next_deadline_ ? now - next_deadline_ : Duration::zero();
    lateness_ = std::max(late, lateness_ * 15 / 16);
    next_deadline_ = TimePoint::max();
    now_ = now;
    for (const HolderIndex index : to_quarantine_) {
        if (!holders_[index].live) continue;
        remove_holder(index);
        actions.push_back({Action::Kind::quarantine_holder, index});
    }
    to_quarantine_.clear();
    if (finished()) return;
    find_stalls(now);
    find_silent(now, actions);
    pages(now, actions);
    order_.clear();
    for (HolderIndex index = 0; index < holders_.size(); ++index) {
        if (holders_[index].live) order_.push_back(index);
    }
    std::stable_sort(order_.begin(), order_.end(), [&](HolderIndex a, HolderIndex b) {
        const Holder& x = holders_[a];
        const Holder& y = holders_[b];
        if (x.traits.distance != y.traits.distance) return x.traits.distance < y.traits.distance;
        return !x.complete && y.complete;
    });
    for (const HolderIndex index : order_) holders_[index].refills = may_refill(index);
    // One chunk a holder and round, so that equals share the work; until nobody takes another.
    for (bool asked = true; asked;) {
        asked = false;
        for (const HolderIndex index : order_) {
            Holder& holder = holders_[index];
            if (in_flight_ >= options_.in_flight_max) return;
            if (!has_room_to_help(holder) || !allowed(holder, now)) continue;
            std::int64_t chunk = pick_help(index);
            if (chunk < 0 && !(has_room(holder) && holder.refills)) continue;
            if (chunk < 0) chunk = pick(index);
            const bool helps = stripes_.empty() || holder.role.stripes != 0;
            if (chunk < 0 && helps) chunk = pick_steal(index, now);
            if (chunk < 0) continue;
            ask(index, static_cast<std::uint32_t>(chunk), now, actions);
            asked = true;
        }
    }
}

}  // namespace weightcast::agent
