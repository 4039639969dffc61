// The pull scheduler: decides which chunk to read from which holder. Pure: events come in, actions
// go out, time is an argument, ties are broken by a seeded generator. Thread-bound.
//
// Policy. Every holder has a window of reads. With a plan, the chunks of a stripe are read from its
// parent, in ascending order, also before the parent has them where the transport can wait. When a
// parent is gone, or brings nothing for long, the parent's parent is read from, and after that
// anybody; so a plan is a hint. Without a plan, a chunk goes to the best holder
// that has it and has room: near before far, relays before complete holders, so that the source
// sends each byte about once. What several readers need is taken rarest first. When nothing is left
// to ask for, chunks outstanding at a slow holder are asked for a second time elsewhere. A chunk
// that fails its digest counts against the holder; the second such chunk quarantines it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "agent/page.h"
#include "base/clock.h"
#include "base/random.h"

namespace weightcast::agent {

using HolderIndex = std::uint32_t;  // never reused within one pull

struct SchedulerOptions {
    std::uint32_t window_min = 2;  // chunk reads in flight per holder
    std::uint32_t window_max = 32;
    std::uint32_t in_flight_max = 48;  // chunk reads in flight in all: the number of buffers
    Duration queue_target = std::chrono::milliseconds(20);  // a window holds about this much work
    Duration page_interval = std::chrono::milliseconds(1);  // between reads of a partial page
    Duration page_interval_max = std::chrono::milliseconds(50);  // after pages without news
    Duration steal_after = std::chrono::milliseconds(50);        // least age of a read to double
    std::uint32_t corrupt_max = 2;  // chunks that fail before a holder is quarantined
    Duration stall_min = std::chrono::milliseconds(60);      // without a chunk of a stripe
    Duration stall_first = std::chrono::milliseconds(1000);  // the same before its first chunk
    Duration stall_max = std::chrono::seconds(5);
    Duration silence_max = std::chrono::milliseconds(250);            // of a stalled parent's page
    Duration page_interval_waiting = std::chrono::milliseconds(250);  // of a parent that can wait
    Duration page_interval_parent = std::chrono::milliseconds(4);     // of one that cannot, at most
    Duration page_interval_other = std::chrono::milliseconds(250);    // of those not needed now
};

struct HolderTraits {
    std::uint32_t distance = 0;          // smaller is nearer
    std::uint64_t rate_max = 0;          // bytes/s this reader may take from it; 0: no cap
    std::vector<std::uint64_t> covered;  // bitmap of chunks whose memory is known; empty: all
    bool can_wait = false;               // a chunk may be asked for before it has it
    bool page_apart = false;             // its page comes over a connection of its own
};

// What the plan has a holder do for this reader.
struct Role {
    std::uint64_t stripes = 0;  // bit s: parent in stripe s
    bool ancestor = false;      // the first to turn to when a parent fails
};

struct Action {
    enum class Kind : std::uint8_t { read_page, read_chunk, quarantine_holder, silent_holder };
    Kind kind = Kind::read_page;
    HolderIndex holder = 0;
    std::uint32_t chunk = 0;
    bool second_copy = false;  // another read of this chunk is outstanding
    bool gated = false;        // the holder may not have it yet
};

enum class ReadOutcome : std::uint8_t { ok, failed };
// What became of a chunk's bytes after reading.
enum class Verdict : std::uint8_t { verified, corrupt };

class PullScheduler {
  public:
    // `wanted`: ascending chunk numbers below `chunk_count`. `chunk_bytes` is for rates and caps.
    PullScheduler(std::uint32_t chunk_count, std::uint64_t chunk_bytes,
                  std::span<const std::uint32_t> wanted, std::uint64_t seed,
                  const SchedulerOptions& options);

    HolderIndex add_holder(const HolderTraits& traits, TimePoint now);
    // A new cap in bytes/s, 0 for none.
    void set_rate_max(HolderIndex holder, std::uint64_t rate_max) {
        holders_[holder].traits.rate_max = rate_max;
    }
    // A new plan of `stripes` stripes, 0 for none; every holder's role is empty then.
    void set_plan(std::uint32_t stripes, TimePoint now);
    // REQUIRES: set_plan() with as many stripes
    void set_role(HolderIndex holder, const Role& role, TimePoint now);
    // Its outstanding reads are asked for elsewhere; their completions are to be told all the same.
    void remove_holder(HolderIndex holder);

    void on_page(HolderIndex holder, const PageView& page, TimePoint now);
    void on_page_failed(HolderIndex holder);
    // True: verify these bytes and tell the verdict. False: nothing came, or another copy was
    // first.
    bool on_chunk_read(HolderIndex holder, std::uint32_t chunk, ReadOutcome outcome, TimePoint now);
    // A corrupt chunk is asked for again, elsewhere if there is an elsewhere.
    void on_chunk_verdict(HolderIndex holder, std::uint32_t chunk, Verdict verdict);

    // Appends what to do now.
    void next_actions(TimePoint now, std::vector<Action>& actions);
    // When to call next_actions again if nothing happens before; TimePoint::max() if never.
    TimePoint next_deadline() const { return next_deadline_; }

    bool finished() const { return verified_count_ == wanted_count_; }
    bool verified(std::uint32_t chunk) const { return chunks_[chunk].state == State::verified; }
    std::uint32_t verified_count() const { return verified_count_; }
    std::uint32_t in_flight() const { return in_flight_; }
    std::uint32_t live_holders() const;
    // True if chunks are missing that no live holder is known to have.
    bool starving() const;

  private:
    enum class State : std::uint8_t { unwanted, open, asked, read, verified };
    struct Chunk {
        State state = State::unwanted;
        std::uint8_t copies = 0;                // reads outstanding
        std::uint16_t relays = 0;               // partial holders known to have it
        std::uint32_t position = 0;             // in open_
        HolderIndex last_corrupt = UINT32_MAX;  // holder that last sent it corrupt
    };
    struct Stripe {
        std::int64_t parent_before = -1;  // in the plan before
        std::int64_t parent = -1;         // a live holder
        std::uint32_t cursor = 0;         // no open chunk of the stripe is below
        TimePoint arrival{};              // of its last chunk, or of its parent
        Duration gap{};                   // between chunks, moving average; 0: none has come yet
        bool stalled = false;
        TimePoint since{};  // that it is without a parent, or stalled
    };
    struct Outstanding {
        std::uint32_t chunk;
        TimePoint since;
        bool gated = false;  // it was asked for before the holder had it
    };
    struct Holder {
        HolderTraits traits;
        bool live = true;
        bool paged = false;  // a page has arrived
        bool complete = false;
        bool page_pending = false;
        TimePoint page_asked{};
        Role role;
        std::uint32_t corrupt = 0;
        Duration page_interval{};
        TimePoint page_due{};
        TimePoint page_first{};                 // when it is due though nobody needs it
        std::vector<std::uint64_t> words;       // what it has
        std::vector<std::uint32_t> candidates;  // partial: held and not asked for, lazily pruned
        std::vector<Outstanding> outstanding;
        bool refills = true;       // its window now, as far as it has room
        double rate = 0;           // bytes/s, moving average
        TimePoint period_start{};  // of the rate's current sample
        std::uint64_t period_bytes = 0;
        double tokens = 0;  // bytes that rate_max allows now
        TimePoint tokens_at{};
    };

    bool has(const Holder& holder, std::uint32_t chunk) const;
    bool elsewhere(HolderIndex holder, std::uint32_t chunk) const;
    bool acceptable(HolderIndex holder, std::uint32_t chunk) const;
    bool left_to(HolderIndex holder, std::uint32_t chunk) const;
    bool any_stripe_open() const;
    bool idle_parent(HolderIndex holder) const;
    Duration patience(const Stripe& stripe) const;
    void find_stalls(TimePoint now);
    void stripe_arrived(HolderIndex holder, std::uint32_t chunk, TimePoint now);
    Duration interval_after(const Holder& holder, bool news) const;
    bool needs_page(const Holder& holder) const;
    bool is_waited_for(const Holder& holder) const;
    void drop_role(HolderIndex holder, TimePoint now);
    std::size_t gated_max() const;
    bool may_wait_more(const Holder& holder, std::uint32_t stripe) const;
    static bool is_covered(const Holder& holder, std::uint32_t chunk);
    std::int64_t pick_planned(HolderIndex holder);
    std::int64_t pick_help(HolderIndex holder);
    std::uint32_t window(const Holder& holder) const;
    bool has_room(const Holder& holder) const;
    bool may_refill(HolderIndex index) const;
    bool has_room_to_help(const Holder& holder) const;
    void find_silent(TimePoint now, std::vector<Action>& actions);
    bool better_elsewhere(HolderIndex holder, std::uint32_t chunk) const;
    std::int64_t pick(HolderIndex holder);
    std::int64_t pick_relay(HolderIndex holder);
    std::int64_t pick_complete(HolderIndex holder);
    std::int64_t pick_steal(HolderIndex holder, TimePoint now);
    void ask(HolderIndex holder, std::uint32_t chunk, TimePoint now, std::vector<Action>& actions);
    void open(std::uint32_t chunk);
    void close(std::uint32_t chunk);
    void forget_relay(Holder& holder);
    void measure(Holder& holder, TimePoint now);
    bool allowed(Holder& holder, TimePoint now);
    void due(TimePoint when) { next_deadline_ = std::min(next_deadline_, when); }
    void pages(TimePoint now, std::vector<Action>& actions);

    SchedulerOptions options_;
    std::uint64_t chunk_bytes_;
    Random random_;
    std::vector<Chunk> chunks_;
    std::vector<std::uint32_t> open_;  // wanted and not asked for
    std::vector<Holder> holders_;
    std::vector<Stripe> stripes_;     // empty: no plan
    std::vector<HolderIndex> order_;  // scratch
    TimePoint now_{};                 // of the latest next_actions()
    std::vector<HolderIndex> to_quarantine_;
    std::uint32_t wanted_count_ = 0;
    std::uint32_t verified_count_ = 0;
    std::uint32_t in_flight_ = 0;
    std::uint32_t cursor_ = 0;  // for sequential reading while no relay is known
    bool relays_seen_ = false;
    TimePoint next_deadline_ = TimePoint::max();
    Duration lateness_{};  // of the caller, behind the deadlines that it was given
};

}  // namespace weightcast::agent
