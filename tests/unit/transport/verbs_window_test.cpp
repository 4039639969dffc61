// Goal: a lane keeps outstanding what its way takes in a short time: much where it is alone on a
// fast port, little where it shares a slow one. Method: a made-up clock and made-up rates.
#include "tests/kit/catch.h"
#include "transport/verbs/lane.h"

namespace weightcast::transport::verbs {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;
constexpr std::uint64_t kNoLimit = 1U << 30U;

RailChoice port_of(double bytes_per_second) {
    RailChoice choice;
    choice.port.rate = static_cast<std::uint64_t>(bytes_per_second);
    return choice;
}

// Settles at this rate for a while, a millisecond at a time, with the window always full.
void run(LaneWindow& window, TimePoint& now, double bytes_per_second, int milliseconds,
         bool is_full = true) {
    for (int i = 0; i < milliseconds; ++i) {
        if (is_full) window.on_full();
        now += std::chrono::milliseconds(1);
        window.on_settled(static_cast<std::uint64_t>(bytes_per_second / 1000), now);
    }
}

TEST_CASE("a lane alone on a fast port gets a window for it") {
    TimePoint now{};
    LaneWindow window(port_of(50e9), kNoLimit);
    window.restart(now);
    run(window, now, 45e9, 100);
    CHECK(window.bytes() == 25'000'000);  // 500 us
    CHECK(window.piece_bytes() == kMiB);
    LaneWindow slower(port_of(12.5e9), kNoLimit);
    slower.restart(now);
    run(slower, now, 12e9, 100);
    CHECK(slower.bytes() == 6'250'000);
    CHECK(slower.piece_bytes() == kMiB);
    LaneWindow limited(port_of(50e9), 65536);
    CHECK(limited.piece_bytes() == 65536);
}

TEST_CASE("a lane that gets little keeps some 40 ms of it outstanding") {
    TimePoint now{};
    LaneWindow window(port_of(12.5e9), kNoLimit);
    window.restart(now);
    run(window, now, 5e6, 500);
    CHECK(window.bytes() > 190'000);
    CHECK(window.bytes() < 210'000);
    CHECK(window.piece_bytes() == 65536);
    run(window, now, 1e5, 2000);
    CHECK(window.bytes() == 32768);  // two of the smallest pieces
    CHECK(window.piece_bytes() == 16384);
    run(window, now, 12e9, 50);
    CHECK(window.bytes() == 6'250'000);
}

TEST_CASE("a lane that has little to do is not taken for a slow one") {
    TimePoint now{};
    LaneWindow window(port_of(12.5e9), kNoLimit);
    window.restart(now);
    const std::uint64_t before = window.bytes();
    run(window, now, 1e4, 500, false);
    CHECK(window.bytes() == before);
}

}  // namespace
}  // namespace weightcast::transport::verbs
