// Goal: a simulated fleet behaves as a fleet: near the lower bound, whoever dies, joins or is slow,
// and the same again with the same seed. Method: small fleets with blocks of a few milliseconds.
#include "sim/simulation.h"

#include <map>

#include "tests/kit/catch.h"

namespace weightcast::sim {
namespace {

using Kind = Receiver::Kind;

constexpr double kPort = 1e9;

SimulationOptions fleet(std::uint32_t receivers, std::uint32_t blocks = 128) {
    SimulationOptions options;
    options.topology = plan::make_fleet({receivers, 1, 1, kPort});
    options.chunks = blocks;
    options.bytes = std::uint64_t{blocks} * 4000000;  // 4 ms each
    options.latency = std::chrono::microseconds(5);
    options.metadata_delay = std::chrono::microseconds(200);
    return options;
}

Outcome outcome_of(const SimulationOptions& options) {
    auto outcome = simulate(options);
    REQUIRE(outcome.has_value());
    CHECK(outcome.value().unfinished == 0);
    return std::move(outcome).value();
}

TEST_CASE("simulation: a flat fleet is near its bound, and the source sends about one copy") {
    const Outcome outcome = outcome_of(fleet(63, 256));
    CHECK(outcome.bound == Approx(261 * 0.004));
    CHECK(outcome.limited_by == "depth");
    CHECK(outcome.times_from_plan(Kind::plain).max < 1.06 * outcome.bound);
    CHECK(outcome.times(Kind::plain).max < 1.06 * outcome.bound + 0.02);
    CHECK(outcome.source_bytes < outcome_of(fleet(1, 256)).source_bytes * 11 / 10);
    CHECK(outcome.twice == 0);
    CHECK(outcome.times().count == 63);
}

TEST_CASE("simulation: a fleet of hundreds in few blocks is within 3 % of the fewest rounds") {
    const Outcome outcome = outcome_of(fleet(511, 256));
    CHECK(outcome.bound == Approx(264 * 0.004));
    CHECK(outcome.times_from_plan(Kind::plain).max < 1.03 * outcome.bound);
    CHECK(outcome.twice == 0);
}

TEST_CASE("simulation: polled pages do as well as waiting reads, but later") {
    SimulationOptions options = fleet(15);
    options.can_wait = false;
    const Outcome outcome = outcome_of(options);
    CHECK(outcome.times_from_plan(Kind::plain).max < 1.6 * outcome.bound);
}

TEST_CASE("simulation: the same seed gives the same, another one another") {
    SimulationOptions options = fleet(31);
    options.deaths = 0.1;
    options.joiners = 0.1;
    options.keep_arrivals = true;
    const Outcome first = outcome_of(options);
    const Outcome second = outcome_of(options);
    options.seed = 2;
    const Outcome third = outcome_of(options);
    CHECK(first.events == second.events);
    REQUIRE(first.arrivals.size() == second.arrivals.size());
    for (std::size_t i = 0; i < first.arrivals.size(); ++i) {
        const Arrival& a = first.arrivals[i];
        const Arrival& b = second.arrivals[i];
        REQUIRE(a.at == b.at);
        REQUIRE(a.chunk == b.chunk);
        REQUIRE((a.rank == b.rank && a.from == b.from));
    }
    CHECK(first.seconds == second.seconds);
    CHECK(first.events != third.events);
}

TEST_CASE("simulation: every receiver gets every chunk, each the first time") {
    SimulationOptions options = fleet(20, 50);
    options.keep_arrivals = true;
    const Outcome outcome = outcome_of(options);
    std::map<std::pair<std::uint32_t, std::uint32_t>, int> came;
    for (const Arrival& arrival : outcome.arrivals) ++came[{arrival.rank, arrival.chunk}];
    CHECK(came.size() == 20 * 50);
    CHECK(outcome.arrivals.size() == came.size());
}

TEST_CASE("simulation: all that live get everything though a tenth dies half way") {
    SimulationOptions options = fleet(40);
    options.deaths = 0.1;
    const Outcome outcome = outcome_of(options);
    CHECK(outcome.times(Kind::plain).count == 36);
    CHECK(outcome.times(Kind::dead).count == 0);
    CHECK(outcome.times(Kind::plain).max < 5 * outcome.bound);
}

TEST_CASE("simulation: a tenth that dies half way costs the others less than 1 %") {
    SimulationOptions options = fleet(127, 4096);
    const double before = outcome_of(options).times(Kind::plain).max;
    options.deaths = 0.1;
    options.detection = std::chrono::milliseconds(100);
    const Outcome outcome = outcome_of(options);
    CHECK(outcome.times(Kind::plain).count == 114);
    CHECK(outcome.times(Kind::plain).max < 1.01 * before);
}

TEST_CASE("simulation: who joins later is done in about the time of its port") {
    SimulationOptions options = fleet(40);
    options.joiners = 0.1;
    const Outcome outcome = outcome_of(options);
    CHECK(outcome.times(Kind::joiner).count == 4);
    CHECK(outcome.times(Kind::joiner).max < 1.4 * 128 * 0.004);
}

TEST_CASE("simulation: whoever is behind a slow port waits no longer than its owner") {
    SimulationOptions options = fleet(40);
    options.stragglers = 0.1;
    const Outcome outcome = outcome_of(options);
    const double slow = 128 * 0.004 / options.straggler_rate;
    CHECK(outcome.times(Kind::straggler).count == 4);
    CHECK(outcome.times(Kind::straggler).min >= slow);
    CHECK(outcome.times(Kind::plain).max < 1.2 * slow);
}

TEST_CASE("simulation: each byte enters a rack about once") {
    SimulationOptions options = fleet(1);
    options.topology = plan::make_fleet({63, 2, 4, kPort, 4 * kPort});
    const Outcome outcome = outcome_of(options);
    const auto copies =
        static_cast<double>(outcome.cross_rack_bytes) / static_cast<double>(options.bytes);
    CHECK(copies >= 3);
    CHECK(copies < 4);
    CHECK(outcome.local_bytes > 0);
}

TEST_CASE("simulation: options out of their range are refused") {
    const auto refuses = [](SimulationOptions options) {
        const auto outcome = simulate(options);
        return !outcome && outcome.error().code == Code::invalid_input;
    };
    SimulationOptions options = fleet(3);
    CHECK_FALSE(refuses(options));
    options.deaths = 1.5;
    CHECK(refuses(options));
    options = fleet(3);
    options.chunks = 0;
    CHECK(refuses(options));
    options = fleet(3);
    options.registry.stripes_min = options.registry.stripes_max = 65;
    CHECK(refuses(options));
    options = fleet(3);
    options.topology.ranks[0].source = false;
    CHECK(refuses(options));
}

TEST_CASE("simulation: a distribution names values that occurred") {
    CHECK(distribution_of({}).count == 0);
    const Distribution all = distribution_of({5, 1, 3, 2, 4, 6, 7, 8, 9, 10});
    CHECK(all.count == 10);
    CHECK(all.min == 1);
    CHECK(all.median == 5);
    CHECK(all.p90 == 9);
    CHECK(all.p99 == 10);
    CHECK(all.max == 10);
}

}  // namespace
}  // namespace weightcast::sim
