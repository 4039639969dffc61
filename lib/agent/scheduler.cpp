#include "agent/scheduler.h"

#include "base/assert.h"

namespace weightcast::agent {
namespace {

constexpr Duration kRatePeriod = std::chrono::milliseconds(5);

bool bit(const std::vector<std::uint64_t>& words, std::uint32_t chunk) {
    return (words[chunk / 64] >> (chunk % 64) & 1U) != 0;
}

}  // namespace

PullScheduler::PullScheduler(std::uint32_t chunk_count, std::uint64_t chunk_bytes,
                             std::span<const std::uint32_t> wanted, std::uint64_t seed,
                             const SchedulerOptions& options)
    : options_(options), chunk_bytes_(chunk_bytes), random_(seed), chunks_(chunk_count) {
    open_.reserve(wanted.size());
    for (const std::uint32_t chunk : wanted) open(chunk);
    wanted_count_ = static_cast<std::uint32_t>(wanted.size());
    // Readers that start together begin in different places, so that they soon can trade.
    if (chunk_count > 0) cursor_ = static_cast<std::uint32_t>(random_.below(chunk_count));
}

void PullScheduler::open(std::uint32_t chunk) {
    Chunk& c = chunks_[chunk];
    c.state = State::open;
    c.position = static_cast<std::uint32_t>(open_.size());
    open_.push_back(chunk);
    if (!stripes_.empty()) {
        Stripe& stripe = stripes_[chunk % stripes_.size()];
        stripe.cursor = std::min(stripe.cursor, chunk);
    }
    for (Holder& holder : holders_) {
        if (holder.live && !holder.complete && has(holder, chunk)) {
            holder.candidates.push_back(chunk);
        }
    }
}

void PullScheduler::close(std::uint32_t chunk) {
    const std::uint32_t position = chunks_[chunk].position;
    const std::uint32_t moved = open_.back();
    open_[position] = moved;
    chunks_[moved].position = position;
    open_.pop_back();
}

HolderIndex PullScheduler::add_holder(const HolderTraits& traits, TimePoint now) {
    Holder holder;
    holder.traits = traits;
    holder.page_interval = options_.page_interval;
    holder.page_due = now;
    holder.page_first = traits.page_apart ? now + options_.page_interval_other : now;
    holder.tokens_at = now;
    holder.tokens = static_cast<double>(chunk_bytes_);
    holder.words.resize((chunks_.size() + 63) / 64);
    holders_.push_back(std::move(holder));
    return static_cast<HolderIndex>(holders_.size() - 1);
}

void PullScheduler::forget_relay(Holder& holder) {
    if (holder.complete) return;
    for (std::uint32_t word = 0; word < holder.words.size(); ++word) {
        for (std::uint64_t left = holder.words[word]; left != 0; left &= left - 1) {
            const auto chunk = word * 64 + static_cast<std::uint32_t>(__builtin_ctzll(left));
            --chunks_[chunk].relays;
        }
    }
    holder.candidates.clear();
}

void PullScheduler::remove_holder(HolderIndex index) {
    Holder& holder = holders_[index];
    if (!holder.live) return;
    forget_relay(holder);
    drop_role(index, now_);
    holder.live = false;
    for (const Outstanding& read : holder.outstanding) {
        Chunk& chunk = chunks_[read.chunk];
        --chunk.copies;
        --in_flight_;
        if (chunk.copies == 0 && chunk.state == State::asked) open(read.chunk);
    }
    holder.outstanding.clear();
    holder.words.clear();
}

void PullScheduler::on_page(HolderIndex index, const PageView& page, TimePoint now) {
    Holder& holder = holders_[index];
    if (!holder.live) return;
    holder.page_pending = false;
    holder.paged = true;
    if (page.state == PageState::complete) {
        forget_relay(holder);
        holder.complete = true;
        return;
    }
    relays_seen_ = true;
    bool news = false;
    for (std::uint32_t word = 0; word < holder.words.size(); ++word) {
        std::uint64_t fresh = page.words[word] & ~holder.words[word];
        if (!holder.traits.covered.empty()) fresh &= holder.traits.covered[word];
        holder.words[word] |= fresh;
        for (; fresh != 0; fresh &= fresh - 1) {
            const auto chunk = word * 64 + static_cast<std::uint32_t>(__builtin_ctzll(fresh));
            ++chunks_[chunk].relays;
            if (chunks_[chunk].state == State::open) holder.candidates.push_back(chunk);
            news = true;
        }
    }
    holder.page_interval = interval_after(holder, news);
    holder.page_due = now + holder.page_interval;
}

void PullScheduler::on_page_failed(HolderIndex index) { remove_holder(index); }

void PullScheduler::measure(Holder& holder, TimePoint now) {
    holder.period_bytes += chunk_bytes_;
    const Duration period = now - holder.period_start;
    if (period < kRatePeriod) return;
    const double sample = static_cast<double>(holder.period_bytes) / seconds(period);
    holder.rate = holder.rate == 0 ? sample : (holder.rate + sample) / 2;
    holder.period_start = now;
    holder.period_bytes = 0;
}

bool PullScheduler::on_chunk_read(HolderIndex index, std::uint32_t number, ReadOutcome outcome,
                                  TimePoint now) {
    Holder& holder = holders_[index];
    Chunk& chunk = chunks_[number];
    const auto read = std::find_if(holder.outstanding.begin(), holder.outstanding.end(),
                                   [&](const Outstanding& o) { return o.chunk == number; });
    if (read != holder.outstanding.end()) {
        holder.outstanding.erase(read);
        --chunk.copies;
        --in_flight_;
    } else {
        WEIGHTCAST_ASSERT(!holder.live);  // removed meanwhile: it was counted then
    }
    if (outcome == ReadOutcome::failed) {
        if (chunk.state == State::asked && chunk.copies == 0) open(number);
        return false;
    }
    measure(holder, now);
    stripe_arrived(index, number, now);
    // A removed holder's last bytes are as good as any, if nobody else was quicker.
    if (chunk.state == State::open) close(number);
    if (chunk.state != State::asked && chunk.state != State::open) return false;
    chunk.state = State::read;
    return true;
}

void PullScheduler::on_chunk_verdict(HolderIndex index, std::uint32_t number, Verdict verdict) {
    Chunk& chunk = chunks_[number];
    WEIGHTCAST_ASSERT(chunk.state == State::read);
    if (verdict == Verdict::verified) {
        chunk.state = State::verified;
        ++verified_count_;
        return;
    }
    chunk.last_corrupt = index;
    if (chunk.copies > 0) {
        chunk.state = State::asked;
    } else {
        open(number);
    }
    Holder& holder = holders_[index];
    if (++holder.corrupt >= options_.corrupt_max && holder.live) to_quarantine_.push_back(index);
}

std::uint32_t PullScheduler::live_holders() const {
    return static_cast<std::uint32_t>(
        std::count_if(holders_.begin(), holders_.end(), [](const Holder& h) { return h.live; }));
}

bool PullScheduler::has(const Holder& holder, std::uint32_t chunk) const {
    if (holder.complete) {
        return holder.traits.covered.empty() || bit(holder.traits.covered, chunk);
    }
    return bit(holder.words, chunk);
}

// True if it is known where the holder has the chunk, or will have it.
bool PullScheduler::is_covered(const Holder& holder, std::uint32_t chunk) {
    return holder.traits.covered.empty() || bit(holder.traits.covered, chunk);
}

bool PullScheduler::starving() const {
    for (const Holder& holder : holders_) {
        if (!holder.live) continue;
        if (!holder.paged || (holder.complete && holder.traits.covered.empty())) return false;
    }
    return std::any_of(open_.begin(), open_.end(),
                       [&](std::uint32_t chunk) { return !elsewhere(UINT32_MAX, chunk); });
}

}  // namespace weightcast::agent
