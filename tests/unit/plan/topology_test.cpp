// Goal: a topology is what its text says, and a text that says nonsense is refused by the name of
// the field. Method: texts.
#include "plan/topology.h"

#include <fmt/core.h>

#include <map>

#include "plan/rate.h"
#include "tests/kit/catch.h"

namespace weightcast::plan {
namespace {

using Catch::Matchers::Contains;

constexpr const char* kFleet = R"({
  "racks":   [{"name": "r", "count": 32, "uplink": "96GB/s"}],
  "hosts":   [{"name": "h", "per_rack": 8, "local": "400GB/s"}],
  "ranks":   [{"name": "g", "per_host": 16, "port": "48GB/s"}],
  "sources": ["r0.h0.g0"]
})";

void check_refused(const std::string& text, const std::string& why) {
    const auto topology = parse_topology(text);
    CAPTURE(text);
    REQUIRE(!topology.has_value());
    CHECK(topology.error().code == Code::invalid_input);
    CHECK_THAT(topology.error().message, Contains(why));
}

}  // namespace

TEST_CASE("a topology of counted racks, hosts and ranks is read") {
    const auto topology = parse_topology(kFleet);
    REQUIRE_OK(topology);
    const Topology& fleet = topology.value();
    REQUIRE(fleet.racks.size() == 32);
    REQUIRE(fleet.hosts.size() == 256);
    REQUIRE(fleet.ranks.size() == 4096);
    CHECK(fleet.racks[31].name == "r31");
    CHECK(fleet.racks[31].up == 96e9);
    CHECK(fleet.hosts[255].name == "r31.h7");
    CHECK(fleet.hosts[255].rack == 31);
    CHECK(fleet.hosts[255].local == 400e9);
    CHECK(fleet.ranks[4095].name == "r31.h7.g15");
    CHECK(fleet.ranks[4095].host == 255);
    CHECK(fleet.ranks[4095].down == 48e9);
    CHECK(fleet.ranks[0].source);
    CHECK(!fleet.ranks[1].source);
}

TEST_CASE("racks and hosts are found by name, and both ways may differ") {
    const auto topology = parse_topology(R"({
      "racks": [{"name": "a", "up": 10, "down": 20.5}, {"name": "b"}],
      "hosts": [{"name": "x", "rack": "b"}, {"name": "y", "rack": "a", "count": 2}],
      "ranks": [{"name": "p", "host": "y1", "up": "1kB/s"},
                {"name": "q", "host": "x", "source": true, "down": 0}]})");
    REQUIRE_OK(topology);
    const Topology& fleet = topology.value();
    CHECK(fleet.racks[0].up == 10);
    CHECK(fleet.racks[0].down == 20.5);
    CHECK(fleet.racks[1].up == 0);
    CHECK(fleet.hosts[2].name == "y1");
    CHECK(fleet.hosts[0].rack == 1);
    CHECK(fleet.ranks[0].host == 2);
    CHECK(fleet.ranks[0].up == 1000);
    CHECK(fleet.ranks[0].down == 0);
    CHECK(fleet.ranks[1].source);
}

TEST_CASE("what is not given has one rack, and a host a rank") {
    const auto topology = parse_topology(
        R"({"ranks": [{"name": "a", "source": true}, {"name": "b", "count": 2, "port": 7}]})");
    REQUIRE_OK(topology);
    const Topology& fleet = topology.value();
    REQUIRE(fleet.racks.size() == 1);
    REQUIRE(fleet.hosts.size() == 3);
    CHECK(fleet.hosts[2].name == "b1");
    CHECK(fleet.ranks[2].name == "b1");
    CHECK(fleet.ranks[2].host == 2);
    CHECK(fleet.ranks[2].up == 7);
    REQUIRE_OK(parse_topology(R"({"racks": [{"name": "x"}, {"name": "y"}],
                                  "ranks": [{"name": "a", "per_rack": 2, "source": true}]})"));
}

TEST_CASE("what is wrong in a topology is named") {
    const std::string source = R"({"name": "s", "source": true})";
    check_refused("", "");
    check_refused("[]", "not an object");
    check_refused(R"({"ranks": []})", "ranks");
    check_refused(R"({"ranks": [3]})", "ranks[0]: is not an object");
    check_refused(R"({"ranks": [{"name": "a"}]})", "none of them is a source");
    check_refused(R"({"nodes": []})", "nodes");
    check_refused(R"({"ranks": [{"name": "a", "speed": 3}]})", "ranks[0].speed");
    check_refused(R"({"ranks": [{"name": "a", "name": "b"}]})", "twice");
    check_refused(R"({"ranks": [{}]})", "ranks[0].name: is missing");
    check_refused(R"({"ranks": [{"name": ""}]})", "ranks[0].name");
    check_refused(fmt::format(R"({{"ranks": [{{"name": "{}"}}]}})", std::string(257, 'x')),
                  "ranks[0].name");
    check_refused(
        fmt::format(R"({{"ranks": [{{"name": "{}", "count": 9}}]}})", std::string(256, 'x')),
        "ranks[0].name: gets longer");
    check_refused(fmt::format(R"({{"ranks": [{0}, {0}]}})", source), "'s' occurs twice");
    check_refused(R"({"racks": [{"name": "a1"}, {"name": "a", "count": 2}]})", "'a1' occurs twice");
    check_refused(R"({"hosts": [{"name": "h", "rack": "x"}]})", "there is no 'x'");
    check_refused(R"({"racks": [{"name": "r", "count": 2}], "hosts": [{"name": "h"}]})",
                  "hosts[0].rack: is missing");
    check_refused(R"({"hosts": [{"name": "h", "per_rack": 2, "count": 2}]})", "per_rack");
    check_refused(fmt::format(R"({{"ranks": [{}], "sources": ["t"]}})", source), "sources[0]");
    check_refused(fmt::format(R"({{"ranks": [{}], "sources": 1}})", source), "sources");
}

TEST_CASE("counts and rates have limits") {
    for (const char* count :
         {"0", "-1", "1.5", "1000001", "\"2\"", "1e3", "18446744073709551616"}) {
        check_refused(fmt::format(R"({{"ranks": [{{"name": "a", "count": {}}}]}})", count),
                      "ranks[0].count");
    }
    check_refused(R"({"racks": [{"name": "r", "count": 2000}],
                      "ranks": [{"name": "a", "per_rack": 501}]})",
                  "ranks[0].per_rack: makes more than 1000000");
    for (const char* rate :
         {"-1", "0.5", "2e18", "true", "\"fast\"", "\"-3B/s\"", "\"1e300GB/s\""}) {
        check_refused(fmt::format(R"({{"ranks": [{{"name": "a", "port": {}}}]}})", rate),
                      "ranks[0].port: is not a rate");
    }
    check_refused(R"({"ranks": [{"name": "a", "port": 1, "up": 1}]})", "ranks[0].port");
    check_refused(R"({"ranks": [{"name": "a", "source": 1}]})", "ranks[0].source");
}

TEST_CASE("rates are read with their units") {
    const std::map<std::string, double> rates{{"200Mbit/s", 25e6},
                                              {"48GB/s", 48e9},
                                              {"1.5 GiB/s", 1.5 * 0x1p30},
                                              {"8bit/s", 1},
                                              {"100B/s", 100},
                                              {"1TB", 1e12},
                                              {"400Gbit", 50e9},
                                              {"2e3kB/s", 2e6},
                                              {"0B/s", 0},
                                              {"3KiB/s", 3072},
                                              {"1Ti B/s", -1},
                                              {"1Gibit/s", -1},
                                              {"7", -1},
                                              {"GB/s", -1},
                                              {"", -1},
                                              {"nanGB/s", -1},
                                              {"infB/s", -1},
                                              {"1MB/s ", -1},
                                              {" 1MB/s", -1},
                                              {"1mB/s", -1},
                                              {"1MB/s/s", -1},
                                              {"0x10B/s", -1},
                                              {std::string(65, '1'), -1}};
    for (const auto& [text, rate] : rates) {
        CAPTURE(text);
        CHECK(parse_rate(text).value_or(-1) == rate);
    }
}

TEST_CASE("a fleet of equals is spread evenly over its racks") {
    FleetOptions options;
    options.receivers = 4096;
    options.ranks_per_host = 16;
    options.racks = 32;
    options.port = 5;
    options.uplink = 6;
    options.local = 7;
    const Topology fleet = make_fleet(options);
    REQUIRE(fleet.ranks.size() == 4097);
    REQUIRE(fleet.hosts.size() == 257);
    std::map<std::uint32_t, std::uint32_t> hosts;
    for (const HostSpec& host : fleet.hosts) ++hosts[host.rack];
    CHECK(hosts.size() == 32);
    for (const auto& [rack, count] : hosts) CHECK((count == 8 || count == 9));
    CHECK(fleet.ranks[0].source);
    CHECK(!fleet.ranks[4096].source);
    CHECK(fleet.ranks[16].host == 1);
    CHECK(fleet.racks[3].down == 6);
    CHECK(fleet.hosts[3].local == 7);
    CHECK(fleet.ranks[3].up == 5);
}

}  // namespace weightcast::plan
