// A made-up clock and what is to happen on it. Events of the same moment happen in the order in
// which they were put in, so a simulation repeats exactly. Thread-bound.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "base/clock.h"

namespace weightcast::sim {

enum class EventKind : std::uint8_t {
    request,    // a read request is at its holder; subject: link, detail: chunk
    port_free,  // subject: port
    hop,        // the head of a transfer gets its turn at its next resource; subject: transfer
    arrival,    // the end of a transfer is at its reader; subject: transfer
    page,       // a page is at its reader; subject: link
    lost,       // a reader knows that its link is broken; subject: link
    asked,      // a request is at the registry; subject: rank
    answered,   // its answer is back; subject: rank
    beat,       // a heartbeat is due; subject: rank
    start,      // subject: rank
    death,      // subject: rank
    gone,       // the registry knows that it is not connected any more; subject: rank
    wake,       // a receiver's own deadline; subject: rank
    ask_plan,   // the time that the registry asked for is over; subject: rank
};

struct Event {
    std::int64_t at_ns = 0;
    std::uint64_t order = 0;  // set by the queue
    EventKind kind = EventKind::wake;
    std::uint32_t subject = 0;
    std::uint32_t detail = 0;
};

class EventQueue final : public Clock {
  public:
    TimePoint now() const override { return TimePoint(Duration(now_ns_)); }
    std::uint64_t wall_ms() const override { return static_cast<std::uint64_t>(now_ns_) / 1000000; }
    std::int64_t now_ns() const { return now_ns_; }

    // REQUIRES: at_ns >= now_ns()
    void put(std::int64_t at_ns, EventKind kind, std::uint32_t subject, std::uint32_t detail = 0);
    bool empty() const { return size_ == 0; }
    // REQUIRES: !empty()
    std::int64_t next_ns() const;
    // Takes the next event and sets the clock to its time. REQUIRES: !empty()
    Event take();
    std::uint64_t taken() const { return taken_; }

  private:
    void push(const Event& event);
    Event pop();

    std::int64_t now_ns_ = 0;
    std::uint64_t next_order_ = 0;
    std::uint64_t taken_ = 0;
    std::size_t size_ = 0;
    // Requests and pages always take the same time, so each kind comes in order by itself.
    std::array<std::deque<Event>, 2> lanes_;
    std::vector<Event> heap_;  // of the others; four children to a node: half as deep as with two
};

}  // namespace weightcast::sim
