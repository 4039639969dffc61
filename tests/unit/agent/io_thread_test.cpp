// Goal: the I/O thread takes on small jobs only as long as it has time for them.
// Method: a thread without fabrics, which waits whenever nothing is posted.
#include "agent/io_thread.h"

#include "tests/kit/catch.h"

namespace weightcast::agent {
namespace {

bool run(IoThread& io, const std::function<void()>& job) {
    return io.call([&] { return io.run_if_idle(job); });
}

}  // namespace

TEST_CASE("the I/O thread runs small jobs in the time that it has waited") {
    IoThread io({});
    int ran = 0;
    // Each call finds that it has waited for the one before.
    while (ran == 0) run(io, [&] { ++ran; });
    const auto long_job = [&] {
        const TimePoint end = system_clock().now() + std::chrono::seconds(1);
        while (system_clock().now() < end) continue;
        ++ran;
    };
    while (ran == 1) run(io, long_job);
    REQUIRE(ran == 2);
    // It owes nearly all of that second.
    CHECK(!run(io, [&] { ++ran; }));
    CHECK(ran == 2);
}

}  // namespace weightcast::agent
