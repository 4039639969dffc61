// Goal: a fleet's bound is never above what the best of all schedules needs, is as much where the
// theory says so, and names its cut. Method: exhaustive search on small fleets, chosen and seeded;
// cases worked by hand.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "plan/bound.h"
#include "tests/kit/catch.h"
#include "tests/unit/plan/exhaustive.h"

namespace weightcast::plan {
namespace {

using Catch::Matchers::WithinRel;

double bound_slots(const SmallFleet& fleet, std::uint64_t blocks) {
    const std::uint64_t bytes = std::uint64_t{fleet.blocks} * fleet.block_units;
    return fleet_bound(fleet.topology, bytes, {0, blocks}).seconds;
}

std::string limited_by(const Topology& topology, const BlockCost& cost = {}) {
    return fleet_bound(topology, 1000, cost).limited_by;
}

Topology equals(std::uint32_t receivers, double port) {
    FleetOptions options;
    options.receivers = receivers;
    options.port = port;
    return make_fleet(options);
}

std::uint32_t ceil_log2(std::uint32_t n) {
    std::uint32_t log = 0;
    while ((1U << log) < n) ++log;
    return log;
}

std::string describe(const SmallFleet& fleet) {
    std::string text = fmt::format("{} blocks of {}:", fleet.blocks, fleet.block_units);
    for (const RankSpec& rank : fleet.topology.ranks) {
        const HostSpec& host = fleet.topology.hosts[rank.host];
        const RackSpec& rack = fleet.topology.racks[host.rack];
        text +=
            fmt::format(" [{}{}/{} host {} ({}) rack {} ({}/{})]", rank.source ? "source " : "",
                        rank.up, rank.down, rank.host, host.local, host.rack, rack.up, rack.down);
    }
    return text;
}

SmallFleet random_fleet(Random& random) {
    // Rates of 0 are without limit.
    const auto rate = [&](std::uint64_t least) {
        return static_cast<double>(least + random.below(3));
    };
    SmallFleet fleet;
    const bool three_blocks = random.below(4) == 0;
    fleet.blocks = three_blocks ? 3 : static_cast<std::uint32_t>(1 + random.below(2));
    fleet.block_units = static_cast<std::uint32_t>(1 + random.below(fleet.blocks == 3 ? 1 : 2));
    Topology& topology = fleet.topology;
    for (std::uint64_t i = 0; i < 3; ++i) topology.racks.push_back({"", rate(0), rate(0)});
    const std::uint64_t ranks = 2 + random.below(3);
    const std::uint64_t ranks_per_host = 1 + random.below(2);
    for (std::uint64_t i = 0; i < ranks; ++i) {
        if (i % ranks_per_host == 0) {
            topology.hosts.push_back({"", static_cast<std::uint32_t>(random.below(3)), rate(0)});
        }
        const bool source = i == 0 || random.below(5) == 0;
        topology.ranks.push_back(
            {"", static_cast<std::uint32_t>(topology.hosts.size() - 1), rate(1), rate(1), source});
    }
    return fleet;
}

}  // namespace

TEST_CASE("equal ports need exactly k - 1 + ceil(log2 n) block times") {
    for (std::uint32_t receivers = 1; receivers <= 4; ++receivers) {
        for (std::uint32_t blocks = 1; blocks <= 3; ++blocks) {
            const SmallFleet fleet{equals(receivers, 1), blocks, 1};
            CAPTURE(describe(fleet));
            const std::uint32_t theory = blocks - 1 + ceil_log2(receivers + 1);
            CHECK(least_slots(fleet) == theory);
            CHECK(bound_slots(fleet, blocks) == theory);
            CHECK(bound_slots(fleet, 0) <= theory);
        }
    }
}

TEST_CASE("no schedule of a small fleet is faster than its bound") {
    const std::uint64_t seed = 1;
    Random random(seed);
    std::uint32_t reached = 0;
    std::uint32_t with_receivers = 0;
    constexpr std::uint32_t kFleets = 1500;
    for (std::uint32_t i = 0; i < kFleets; ++i) {
        const SmallFleet fleet = random_fleet(random);
        const std::uint32_t least = least_slots(fleet);
        const double bound = bound_slots(fleet, fleet.blocks);
        if (bound > least + 1e-9 || bound_slots(fleet, 0) > bound + 1e-9) {
            FAIL(describe(fleet) << ": bound " << bound << ", without blocks "
                                 << bound_slots(fleet, 0) << ", possible " << least);
        }
        if (least == 0) continue;
        ++with_receivers;
        if (std::ceil(bound - 1e-9) == least) ++reached;
    }
    // The bound is of use: most often it is the number of slots itself.
    CHECK(reached * 2 > with_receivers);
}

TEST_CASE("what is beyond the bound does not grow with the number of blocks") {
    // A slow source; a slow receiver; all ports together; a rack's uplink.
    Topology slow_source = equals(2, 2);
    slow_source.ranks[0].up = 1;
    Topology slow_receiver = equals(2, 2);
    slow_receiver.ranks[2].down = 1;
    Topology weak_relays = equals(2, 2);
    weak_relays.ranks[1].up = weak_relays.ranks[2].up = 1;
    Topology racks = equals(2, 2);
    racks.racks.push_back({"far", 1, 1});
    racks.hosts[1].rack = racks.hosts[2].rack = 1;
    for (const Topology& topology : {slow_source, slow_receiver, weak_relays, racks}) {
        double beyond = 0;
        for (std::uint32_t blocks = 1; blocks <= 4; ++blocks) {
            const SmallFleet fleet{topology, blocks, 2};
            const double more = least_slots(fleet) - bound_slots(fleet, 0);
            CAPTURE(describe(fleet), bound_slots(fleet, 0));
            CHECK(more >= 0);
            if (blocks == 1) beyond = more;
            CHECK(more <= beyond + 1);
        }
    }
}

TEST_CASE("the cut that takes longest is named") {
    Topology topology = equals(4, 100);
    CHECK(limited_by(topology) == "source ports");
    topology.ranks[3].down = 50;
    CHECK(limited_by(topology) == "port into rank rank3");
    topology.ranks[3].down = 100;
    for (std::size_t i = 1; i < 5; ++i) topology.ranks[i].up = 10;
    CHECK(limited_by(topology) == "all ports together");
    CHECK(fleet_bound(topology, 1400).seconds == 40);
    topology.racks.push_back({"far", 0, 20});
    topology.hosts[4].rack = 1;
    CHECK(limited_by(topology) == "uplink into rack far");
    topology.racks[0].up = 15;
    CHECK(limited_by(topology) == "uplinks out of the racks with sources");
    CHECK(limited_by(equals(4, 0)) == "nothing known");
    CHECK(limited_by(equals(4, 1e9), {1, 100}) == "depth");
    topology.ranks.resize(1);
    CHECK(limited_by(topology) == "no receivers");
}

TEST_CASE("racks take and give by their uplinks and their ports") {
    FleetOptions options;
    options.receivers = 7;
    options.racks = 4;
    options.port = 100;
    options.uplink = 60;
    // The source gives 60, as much as a rack can take; all uplinks 240, for three racks.
    CHECK(limited_by(make_fleet(options)) == "uplinks out of the racks with sources");
    Topology topology = make_fleet(options);
    for (RackSpec& rack : topology.racks) rack.down = 0;
    for (std::size_t i = 1; i < 4; ++i) topology.racks[i].up = 1;
    CHECK(limited_by(topology) == "all uplinks together");
    CHECK_THAT(fleet_bound(topology, 63).seconds, WithinRel(3.0, 1e-12));
    // A rack of many with weak ports of their own, behind a weak uplink.
    topology = equals(8, 100);
    topology.racks.push_back({"weak", 50, 50});
    for (std::size_t i = 1; i < 9; ++i) {
        topology.hosts[i].rack = 1;
        topology.ranks[i].up = 10;
    }
    CHECK(limited_by(topology) == "ports of rack weak");
    CHECK_THAT(fleet_bound(topology, 130).seconds, WithinRel(8.0, 1e-12));
}

TEST_CASE("ranks of a host share its ports and its local links") {
    FleetOptions options;
    options.receivers = 7;
    options.ranks_per_host = 4;
    options.port = 100;
    // A copy a host is enough: four ports bring it.
    CHECK(limited_by(make_fleet(options)) == "ports of the sources' hosts");
    CHECK(fleet_bound(make_fleet(options), 4000).seconds == 10);
    Topology topology = make_fleet(options);
    for (std::size_t i = 4; i < 8; ++i) topology.ranks[i].down = 50;
    CHECK(limited_by(topology) == "ports into host host1");
    topology.hosts[1].local = 100;
    CHECK(limited_by(topology) == "links into rank4 and 3 others of its host");
    CHECK_THAT(fleet_bound(topology, 300).seconds, WithinRel(4.0, 1e-12));
    topology.hosts[0].local = 10;
    topology.ranks[0].up = 10;
    CHECK(limited_by(topology) == "source ports");
    CHECK(fleet_bound(topology, 200).seconds == 10);
}

TEST_CASE("the cost of a block makes the number of blocks a compromise") {
    const std::uint64_t bytes = 8'000'000'000;
    const double rate = 48e9;
    const double alpha = 20e-6;
    for (const std::uint32_t n : {2U, 3U, 512U, 1000U, 4096U}) {
        double least = 1e9;
        for (std::uint64_t k = 1; k <= 5000; ++k) {
            const double block = static_cast<double>(bytes) / static_cast<double>(k) / rate + alpha;
            least = std::min(least, static_cast<double>(k - 1 + ceil_log2(n)) * block);
        }
        const Bound bound = fleet_bound(equals(n - 1, rate), bytes, {alpha, 0});
        CHECK_THAT(bound.seconds, WithinRel(least, 1e-9));
        if (n > 2) CHECK(bound.limited_by == "depth");
    }
}

TEST_CASE("several sources save rounds") {
    Topology topology = equals(15, 1);
    for (std::size_t i = 0; i < 4; ++i) topology.ranks[i].source = true;
    // Two blocks leave a source each, and 4 ranks become 16 in two rounds.
    CHECK(fleet_bound(topology, 8, {0, 8}).seconds == 8);  // the receivers' ports
    CHECK(fleet_bound(topology, 1, {0, 1}).seconds == 2);
    CHECK(fleet_bound(topology, 1, {0, 1}).limited_by == "depth");
}

TEST_CASE("no bytes and no receivers need no time") {
    CHECK(fleet_bound(equals(3, 1), 0).seconds == 0);
    CHECK(fleet_bound(equals(0, 1), 10).seconds == 0);
}

}  // namespace weightcast::plan
