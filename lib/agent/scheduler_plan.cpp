// Reading by a plan: parents, and what happens when one of them brings nothing.
#include <algorithm>
#include <utility>

#include "agent/scheduler.h"
#include "base/assert.h"

namespace weightcast::agent {
namespace {

constexpr int kScanned = 1024;  // chunks of a stripe that are looked at for one that a parent has
constexpr int kStallGaps = 8;   // mean times between two chunks that make a stall,
constexpr int kStallLates = 4;  // and times by which this reader itself was late lately
// Before others than ancestors are asked: for a stripe without a parent, and for one whose parent
// is there but waits itself, as all behind a gap do; not all of them are to turn to the source.
constexpr auto kAncestorsAlone = std::chrono::milliseconds(50);
constexpr auto kAncestorsAloneStalled = std::chrono::seconds(2);

}  // namespace

void PullScheduler::set_plan(std::uint32_t stripes, TimePoint now) {
    if (stripes_.size() != stripes) {
        stripes_.assign(stripes, Stripe{});
        for (Stripe& stripe : stripes_) stripe.since = now;
    }
    for (Stripe& stripe : stripes_) stripe.parent_before = std::exchange(stripe.parent, -1);
    for (Holder& holder : holders_) holder.role = {};
}

void PullScheduler::set_role(HolderIndex index, const Role& role, TimePoint now) {
    Holder& holder = holders_[index];
    if (!holder.live) return;
    holder.role = role;
    for (std::uint32_t s = 0; s < stripes_.size(); ++s) {
        if ((role.stripes >> s & 1U) == 0) continue;
        Stripe& stripe = stripes_[s];
        stripe.parent = index;
        if (stripe.parent_before == index) continue;
        stripe.stalled = false;
        stripe.arrival = now;
        stripe.gap = {};
        holder.page_due = now;
    }
}

void PullScheduler::drop_role(HolderIndex index, TimePoint now) {
    for (Stripe& stripe : stripes_) {
        if (stripe.parent != index) continue;
        stripe.parent = -1;
        stripe.stalled = false;
        stripe.since = now;
    }
    holders_[index].role = {};
    for (Holder& holder : holders_) holder.page_due = std::min(holder.page_due, now);
}

// How soon to look at a holder's page again.
Duration PullScheduler::interval_after(const Holder& holder, bool news) const {
    const Duration longer = holder.page_interval * 3 / 2;
    if (stripes_.empty()) {
        return news ? options_.page_interval : std::min(longer, options_.page_interval_max);
    }
    if (holder.role.stripes != 0) {
        if (is_waited_for(holder)) return options_.page_interval_waiting;
        return news ? options_.page_interval : std::min(longer, options_.page_interval_parent);
    }
    return any_stripe_open() ? options_.page_interval_parent : options_.page_interval_other;
}

bool PullScheduler::needs_page(const Holder& holder) const {
    return any_stripe_open() || (holder.role.stripes != 0 && !is_waited_for(holder));
}

// A parent like this is read from without its page. REQUIRES: there is a plan
bool PullScheduler::is_waited_for(const Holder& holder) const {
    return holder.traits.can_wait && gated_max() > 0;
}

// True if holders that are not the parent may be needed.
bool PullScheduler::any_stripe_open() const {
    return stripes_.empty() ||
           std::any_of(stripes_.begin(), stripes_.end(),
                       [](const Stripe& stripe) { return stripe.parent < 0 || stripe.stalled; });
}

// True if the stripes that are read from this holder have all been asked for: it may help out.
bool PullScheduler::idle_parent(HolderIndex index) const {
    bool parent = false;
    for (const Stripe& stripe : stripes_) {
        if (stripe.parent != index) continue;
        if (stripe.cursor < chunks_.size()) return false;
        parent = true;
    }
    return parent;
}

// True if the plan lets this holder be asked for the chunk.
bool PullScheduler::left_to(HolderIndex index, std::uint32_t chunk) const {
    if (stripes_.empty()) return true;
    const Stripe& stripe = stripes_[chunk % stripes_.size()];
    if (stripe.parent == index) return true;
    if (stripe.parent >= 0 && chunks_[chunk].last_corrupt == stripe.parent) return true;
    if (stripe.parent >= 0 && !stripe.stalled) return idle_parent(index);
    const Duration alone = stripe.parent >= 0 ? Duration(kAncestorsAloneStalled) : kAncestorsAlone;
    return holders_[index].role.ancestor || now_ - stripe.since > alone;
}

Duration PullScheduler::patience(const Stripe& stripe) const {
    if (stripe.gap != Duration::zero()) {
        return std::clamp(stripe.gap * kStallGaps + lateness_ * kStallLates, options_.stall_min,
                          options_.stall_max);
    }
    const auto rate = holders_[static_cast<std::size_t>(stripe.parent)].traits.rate_max;
    if (rate == 0) return options_.stall_first;
    const std::chrono::duration<double> each(static_cast<double>(chunk_bytes_) /
                                             static_cast<double>(rate));
    return std::max(options_.stall_first, std::chrono::duration_cast<Duration>(each) * kStallGaps);
}

void PullScheduler::find_stalls(TimePoint now) {
    for (std::uint32_t s = 0; s < stripes_.size(); ++s) {
        Stripe& stripe = stripes_[s];
        if (stripe.parent < 0 || stripe.stalled) continue;
        TimePoint oldest = TimePoint::max();
        for (const Outstanding& read :
             holders_[static_cast<std::size_t>(stripe.parent)].outstanding) {
            if (read.chunk % stripes_.size() == s) oldest = std::min(oldest, read.since);
        }
        if (oldest == TimePoint::max()) continue;
        const TimePoint end = std::max(oldest, stripe.arrival) + patience(stripe);
        if (now < end) {
            due(end);
            continue;
        }
        stripe.stalled = true;
        stripe.since = now;
        for (Holder& holder : holders_) holder.page_due = std::min(holder.page_due, now);
    }
}

void PullScheduler::stripe_arrived(HolderIndex index, std::uint32_t chunk, TimePoint now) {
    if (stripes_.empty()) return;
    Stripe& stripe = stripes_[chunk % stripes_.size()];
    if (stripe.parent != index) return;
    const Duration gap = now - stripe.arrival;
    stripe.gap = stripe.gap == Duration::zero() ? gap : (stripe.gap * 7 + gap) / 8;
    stripe.arrival = now;
    stripe.stalled = false;
}

// Reads of a stripe that may wait for their holder. They take buffers from reads of other stripes,
// and these may be what the holder waits for, around a circle of members: so each stripe has its
// share.
std::size_t PullScheduler::gated_max() const { return options_.in_flight_max / stripes_.size(); }

// True if one more chunk of the stripe may be asked for before its parent has it.
bool PullScheduler::may_wait_more(const Holder& holder, std::uint32_t s) const {
    if (!holder.traits.can_wait || holder.complete) return false;
    std::ptrdiff_t gated = 0;  // also at a former parent
    for (const Holder& other : holders_) {
        gated += std::ranges::count_if(other.outstanding, [&](const Outstanding& read) {
            return read.gated && read.chunk % stripes_.size() == s;
        });
    }
    return static_cast<std::size_t>(gated) < gated_max();
}

// The first open chunk of the stripes that are read from this holder; of several the one whose
// stripe is behind.
std::int64_t PullScheduler::pick_planned(HolderIndex index) {
    const Holder& holder = holders_[index];
    const auto step = static_cast<std::uint32_t>(stripes_.size());
    std::int64_t best = -1;
    for (std::uint32_t s = 0; s < step; ++s) {
        Stripe& stripe = stripes_[s];
        if (stripe.parent != index) continue;
        if (stripe.cursor % step != s) stripe.cursor = s;
        while (stripe.cursor < chunks_.size() && chunks_[stripe.cursor].state != State::open) {
            stripe.cursor += step;
        }
        const bool waits = may_wait_more(holder, s);
        std::uint32_t chunk = stripe.cursor;
        for (int scanned = 0; scanned < kScanned && chunk < chunks_.size(); ++scanned) {
            const bool lied = chunks_[chunk].last_corrupt == index && elsewhere(index, chunk);
            const bool open = chunks_[chunk].state == State::open && !lied;
            const bool there = holder.paged && has(holder, chunk);
            if (open && (there || (waits && is_covered(holder, chunk)))) break;
            chunk += step;
            if (scanned + 1 == kScanned) chunk = static_cast<std::uint32_t>(chunks_.size());
        }
        if (chunk < chunks_.size() && (best < 0 || chunk < best)) best = chunk;
    }
    return best;
}

// A chunk of a stripe without a parent that brings it, if this holder has it: one that the parent
// owes, or the first that nobody was asked for.
std::int64_t PullScheduler::pick_help(HolderIndex index) {
    if (stripes_.empty() || !any_stripe_open() || !holders_[index].paged) return -1;
    const auto step = static_cast<std::uint32_t>(stripes_.size());
    const auto fits = [&](std::uint32_t chunk) {
        return has(holders_[index], chunk) && left_to(index, chunk) &&
               chunks_[chunk].last_corrupt != index;
    };
    for (std::uint32_t s = 0; s < step; ++s) {
        const Stripe& stripe = stripes_[s];
        if (stripe.parent == index || (stripe.parent >= 0 && !stripe.stalled)) continue;
        if (stripe.parent >= 0) {
            for (const Outstanding& read :
                 holders_[static_cast<std::size_t>(stripe.parent)].outstanding) {
                const Chunk& chunk = chunks_[read.chunk];
                if (read.chunk % step != s || chunk.state != State::asked) continue;
                if (chunk.copies == 1 && fits(read.chunk)) return read.chunk;
            }
        }
        std::uint32_t chunk = stripe.cursor % step == s ? stripe.cursor : s;
        for (int scanned = 0; scanned < kScanned && chunk < chunks_.size(); ++scanned) {
            if (chunks_[chunk].state == State::open && fits(chunk)) return chunk;
            chunk += step;
        }
    }
    return -1;
}

// A parent that brings nothing and does not show its page either is taken for dead.
void PullScheduler::find_silent(TimePoint now, std::vector<Action>& actions) {
    const Duration silence_max = options_.silence_max + lateness_ * kStallLates;
    for (const Stripe& stripe : stripes_) {
        if (stripe.parent < 0 || !stripe.stalled) continue;
        const auto index = static_cast<HolderIndex>(stripe.parent);
        const Holder& parent = holders_[index];
        if (!parent.page_pending) continue;
        if (now - parent.page_asked < silence_max) {
            due(parent.page_asked + silence_max);
            continue;
        }
        actions.push_back({Action::Kind::silent_holder, index});
    }
}

}  // namespace weightcast::agent
