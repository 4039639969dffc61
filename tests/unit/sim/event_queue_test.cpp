// Goal: events come in the order of their times, those of one moment as they were put in.
#include "sim/event_queue.h"

#include <vector>

#include "base/random.h"
#include "tests/kit/catch.h"

namespace weightcast::sim {
namespace {

TEST_CASE("events: come by time, then in the order in which they were put") {
    EventQueue events;
    Random random(7);
    const std::vector<EventKind> others{EventKind::wake, EventKind::arrival, EventKind::port_free};
    for (std::uint32_t i = 0; i < 2000; ++i) {
        events.put(static_cast<std::int64_t>(random.below(50)), others[random.below(3)], i);
    }
    // These come in the order of their times anyway, as the queue asks of them.
    for (std::uint32_t i = 0; i < 500; ++i) {
        events.put(i / 10, EventKind::request, 2000 + i);
        events.put(i / 10 + 5, EventKind::page, 3000 + i);
    }
    std::int64_t last_ns = 0;
    std::uint64_t last_order = 0;
    std::uint64_t count = 0;
    for (; !events.empty(); ++count) {
        const std::int64_t next_ns = events.next_ns();
        const Event event = events.take();
        REQUIRE(event.at_ns == next_ns);
        REQUIRE(event.at_ns >= last_ns);
        if (event.at_ns == last_ns && count > 0) REQUIRE(event.order > last_order);
        REQUIRE(events.now_ns() == event.at_ns);
        last_ns = event.at_ns;
        last_order = event.order;
    }
    CHECK(count == 3000);
    CHECK(events.taken() == 3000);
}

}  // namespace
}  // namespace weightcast::sim
