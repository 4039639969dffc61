// Goal: the registry plans those that read a version: together when they come together, with
// parents and ancestors in their hints, around those that are gone or slow. Method: the state
// machine with a hand-moved clock.
#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "registry/state.h"
#include "tests/kit/catch.h"
#include "tests/unit/registry/samples.h"

namespace weightcast::registry {
namespace {

using std::chrono::milliseconds;

struct Reader {
    PeerRef peer;
    std::uint64_t pull = 0;
};

class Fleet {
  public:
    explicit Fleet(StateOptions options = {})
        : state(options, {"cluster", "boot-1", kProtocolVersion}, 1) {
        source = join("source", "");
        const auto planned = state.publish(sample_publish(source, 1, "one"), 5);
        REQUIRE_OK(planned);
        for (const Change& change : planned.value().changes) state.apply(change);
        REQUIRE_OK(state.hold(source, sample_holding(1, true), now));
    }

    PeerRef join(const std::string& name, const std::string& rack) {
        PeerInfo info = sample_peer(name, 1, "host-" + name);
        if (!rack.empty()) info.labels["rack"] = rack;
        const auto lease = state.register_peer(info, now);
        REQUIRE_OK(lease);
        return lease.value().peer;
    }

    // Opens a pull and announces the (empty) holding, as an agent does before it asks for its plan.
    Reader open(const std::string& name, const std::string& rack = "") {
        Reader reader{join(name, rack), 0};
        const auto grant = state.open_pull(sample_pull(reader.peer, "@1"), now);
        REQUIRE_OK(grant);
        reader.pull = grant.value().pull;
        REQUIRE_OK(state.hold(reader.peer, sample_holding(1, false), now));
        return reader;
    }

    Grant renew(const Reader& reader, std::vector<std::uint64_t> avoid = {}, double rate = 0) {
        RenewRequest request{reader.peer, reader.pull, std::move(avoid), 16};
        request.rate = rate;
        const auto grant = state.renew_pull(request, now);
        REQUIRE_OK(grant);
        return grant.value();
    }

    // `count` readers that were planned together.
    std::vector<Reader> start(int count) {
        std::vector<Reader> readers;
        for (int i = 0; i < count; ++i) readers.push_back(open(fmt::format("r{}", i)));
        for (const Reader& reader : readers) renew(reader);
        now += milliseconds(100);
        return readers;
    }

    State state;
    TimePoint now{};
    PeerRef source;
};

// Peer id of the parent by stripe.
std::map<std::uint32_t, std::uint64_t> parents(const Grant& grant) {
    std::map<std::uint32_t, std::uint64_t> found;
    for (const HolderHint& hint : grant.holders) {
        for (const std::uint32_t stripe : hint.stripes) found[stripe] = hint.peer.id;
    }
    return found;
}

TEST_CASE("plan: who has opened a pull is waited for, and not after all have come") {
    Fleet fleet;
    const StateOptions options;
    const Reader first = fleet.open("a");
    const PeerRef second = fleet.join("b", "");
    REQUIRE_OK(fleet.state.open_pull(sample_pull(second, "@1"), fleet.now));
    CHECK(fleet.renew(first).plan_ms == options.gather_ms);
    REQUIRE_OK(fleet.state.hold(second, sample_holding(1, false), fleet.now));
    CHECK(fleet.renew(first).plan_ms == options.gather_ms_all);
    CHECK(fleet.state.counts().plans == 0);
    fleet.now += milliseconds(options.gather_ms_all);
    CHECK(fleet.renew(first).stripes > 0);
    CHECK(fleet.state.counts().plans == 1);
}

TEST_CASE("plan: readers that come together are planned together, after a moment") {
    Fleet fleet;
    const Reader a = fleet.open("a");
    const Reader b = fleet.open("b");
    const Grant first = fleet.renew(a);
    CHECK(first.stripes == 0);
    CHECK(first.plan_ms > 0);
    CHECK(fleet.renew(b).plan_ms > 0);
    fleet.now += milliseconds(first.plan_ms);
    const Grant planned = fleet.renew(a);
    CHECK(planned.plan_ms == 0);
    REQUIRE(planned.stripes == 2);
    CHECK(planned.renew_ms > 0);
    // The source sends each stripe once; the other one comes from the other reader.
    const auto of_a = parents(planned);
    const auto of_b = parents(fleet.renew(b));
    REQUIRE(of_a.size() == 2);
    REQUIRE(of_b.size() == 2);
    for (std::uint32_t stripe = 0; stripe < 2; ++stripe) {
        const bool from_source = of_a.at(stripe) == fleet.source.id;
        CHECK(from_source != (of_b.at(stripe) == fleet.source.id));
        CHECK((from_source ? of_b.at(stripe) == a.peer.id : of_a.at(stripe) == b.peer.id));
    }
}

TEST_CASE(
    "plan: readers of one that is not connected any more read from others, until it is back") {
    Fleet fleet;
    const auto readers = fleet.start(15);
    const auto is_parent = [&](const Reader& one) {
        return std::ranges::any_of(readers, [&](const Reader& reader) {
            const auto of_reader = parents(fleet.renew(reader));
            return reader.peer.id != one.peer.id &&
                   std::ranges::any_of(
                       of_reader, [&](const auto& entry) { return entry.second == one.peer.id; });
        });
    };
    const auto lost = std::ranges::find_if(readers, is_parent);
    REQUIRE(lost != readers.end());
    fleet.state.disconnected(lost->peer.id);
    for (const Reader& reader : readers) {
        if (reader.peer.id == lost->peer.id) continue;
        const auto of_reader = parents(fleet.renew(reader));
        CHECK(of_reader.size() == 2);
        for (const auto& [stripe, parent] : of_reader) CHECK(parent != lost->peer.id);
    }
    // What it holds is known all the same, and it is planned again.
    CHECK(fleet.state.counts().holdings == 16);
    CHECK(fleet.renew(*lost).plan_ms > 0);
    fleet.now += milliseconds(20);
    CHECK(parents(fleet.renew(*lost)).size() == 2);
    // Of a source it is not believed: it may serve well.
    fleet.state.disconnected(fleet.source.id);
    fleet.state.disconnected(12345);
    CHECK(std::ranges::any_of(readers, [&](const Reader& reader) {
        const auto of_reader = parents(fleet.renew(reader));
        return std::ranges::any_of(
            of_reader, [&](const auto& entry) { return entry.second == fleet.source.id; });
    }));
}

TEST_CASE("plan: who is gone before its plan is made is not planned") {
    Fleet fleet;
    const Reader stays = fleet.open("stays");
    const Reader gone = fleet.open("gone");
    CHECK(fleet.renew(stays).plan_ms > 0);
    CHECK(fleet.renew(gone).plan_ms > 0);
    fleet.state.disconnected(gone.peer.id);
    fleet.now += milliseconds(100);
    for (const auto& [stripe, parent] : parents(fleet.renew(stays))) {
        CHECK(parent == fleet.source.id);
    }
}

TEST_CASE("plan: nobody waits for ever for others to come") {
    Fleet fleet;
    const Reader first = fleet.open("first");
    int waits = 0;
    for (; fleet.renew(first).plan_ms > 0; ++waits) {
        fleet.open(fmt::format("r{}", waits));
        fleet.now += milliseconds(5);
        REQUIRE(waits < 100);
    }
    CHECK(waits <= 13);
}

TEST_CASE("plan: a hint names the parents, their parents, and few others") {
    Fleet fleet;
    const auto readers = fleet.start(15);
    std::map<std::uint64_t, std::uint32_t> load;
    std::set<std::tuple<std::uint64_t, std::uint32_t, std::uint32_t>> turns;
    for (const Reader& reader : readers) {
        const Grant grant = fleet.renew(reader);
        for (const HolderHint& hint : grant.holders) {
            CHECK((hint.turn == 0) == hint.stripes.empty());
            for (const std::uint32_t stripe : hint.stripes) {
                CHECK(turns.emplace(hint.peer.id, stripe, hint.turn).second);
            }
        }
        CHECK(parents(grant).size() == 2);
        CHECK(grant.holders.size() <= 8);
        for (const auto& [stripe, parent] : parents(grant)) ++load[parent];
    }
    CHECK(load[fleet.source.id] == 2);
    for (const auto& [peer, count] : load) CHECK(count <= 2);
}

TEST_CASE("plan: the readers of one that cannot be reached read elsewhere, the others go on") {
    Fleet fleet;
    const auto readers = fleet.start(15);
    std::map<std::uint64_t, std::map<std::uint32_t, std::uint64_t>> before;
    for (const Reader& reader : readers) before[reader.peer.id] = parents(fleet.renew(reader));
    std::uint64_t gone = 0;
    for (const Reader& reader : readers) {
        for (const auto& [stripe, parent] : before[reader.peer.id]) {
            if (parent != fleet.source.id) gone = parent;
        }
    }
    REQUIRE(gone != 0);
    const auto reads_from = [&](const Reader& reader) {
        const auto& own = before[reader.peer.id];
        return std::any_of(own.begin(), own.end(), [&](const auto& p) { return p.second == gone; });
    };
    for (const Reader& reader : readers) {
        if (reader.peer.id == gone || !reads_from(reader)) continue;
        for (const auto& [stripe, parent] : parents(fleet.renew(reader, {gone}))) {
            CHECK(parent != gone);
        }
    }
    for (const Reader& reader : readers) {
        if (reader.peer.id == gone || reads_from(reader)) continue;
        CHECK(parents(fleet.renew(reader)) == before[reader.peer.id]);
    }
    // It was not gone: when it asks again, it is planned again.
    const auto back = std::find_if(readers.begin(), readers.end(),
                                   [&](const Reader& reader) { return reader.peer.id == gone; });
    fleet.renew(*back);
    fleet.now += milliseconds(100);
    CHECK(parents(fleet.renew(*back)).size() == 2);
}

TEST_CASE("plan: a reader that does not renew gives its room up, until it is heard of again") {
    Fleet fleet;
    const auto readers = fleet.start(15);
    std::map<std::uint64_t, std::uint32_t> load;
    for (const Reader& reader : readers) {
        for (const auto& [stripe, parent] : parents(fleet.renew(reader))) ++load[parent];
    }
    const auto silent = std::find_if(readers.begin(), readers.end(), [&](const Reader& reader) {
        return load[reader.peer.id] > 0;
    });
    for (int i = 0; i < 12; ++i) {
        fleet.now += milliseconds(200);
        load.clear();
        for (const Reader& reader : readers) {
            if (reader.peer.id == silent->peer.id) continue;
            for (const auto& [stripe, parent] : parents(fleet.renew(reader))) ++load[parent];
        }
    }
    CHECK(load[silent->peer.id] == 0);
    for (const auto& [peer, count] : load)
        CHECK(count <= 2);  // nobody has to send more than before
    fleet.renew(*silent);
    fleet.now += milliseconds(100);
    CHECK(parents(fleet.renew(*silent)).size() == 2);
}

TEST_CASE("plan: the ranks of a host share the import of a version") {
    Fleet fleet;
    constexpr int kRanks = 4;
    std::vector<Reader> readers;
    std::map<std::uint64_t, std::string> host_of;
    for (int i = 0; i < 2 * kRanks; ++i) {
        const std::string host = fmt::format("host-{}", i % 2);
        const auto lease = fleet.state.register_peer(
            sample_peer(fmt::format("r{}", i), static_cast<std::uint8_t>(i + 2), host), fleet.now);
        REQUIRE_OK(lease);
        const PeerRef peer = lease.value().peer;
        host_of[peer.id] = host;
        const auto grant = fleet.state.open_pull(sample_pull(peer, "@1"), fleet.now);
        REQUIRE_OK(grant);
        REQUIRE_OK(fleet.state.hold(peer, sample_holding(1, false), fleet.now));
        readers.push_back({peer, grant.value().pull});
    }
    for (const Reader& reader : readers) fleet.renew(reader);
    fleet.now += milliseconds(100);
    std::map<std::string, std::uint32_t> imported;
    for (const Reader& reader : readers) {
        const Grant grant = fleet.renew(reader);
        CHECK(grant.stripes == 2 * kRanks);
        std::uint32_t own = 0;
        for (const auto& [stripe, parent] : parents(grant)) {
            own += host_of[parent] == host_of[reader.peer.id] ? 0 : 1;
        }
        CHECK(own == 2);
        imported[host_of[reader.peer.id]] += own;
    }
    for (const auto& [host, count] : imported) CHECK(count == 2 * kRanks);
}

TEST_CASE("plan: who knows its hints is told when they change, and not before") {
    Fleet fleet;
    const auto readers = fleet.start(7);
    const auto ask = [&](const Reader& reader, std::uint64_t known) {
        RenewRequest request{reader.peer, reader.pull, {}, 16};
        request.known = known;
        const auto grant = fleet.state.renew_pull(request, fleet.now);
        REQUIRE_OK(grant);
        return grant.value();
    };
    std::map<std::uint64_t, Grant> known;
    for (const Reader& reader : readers) known[reader.peer.id] = fleet.renew(reader);
    for (const Reader& reader : readers) {
        const Grant& before = known[reader.peer.id];
        REQUIRE(before.digest != 0);
        CHECK_FALSE(before.unchanged);
        const Grant again = ask(reader, before.digest);
        CHECK(again.unchanged);
        CHECK(again.holders.empty());
        CHECK(again.renew_ms > 0);
        CHECK_FALSE(ask(reader, before.digest + 1).holders.empty());
    }
    const std::uint64_t gone = readers.front().peer.id;
    fleet.state.leave(readers.front().peer);
    for (const Reader& reader : readers) {
        if (reader.peer.id == gone) continue;
        const Grant& before = known[reader.peer.id];
        const bool knew = std::any_of(
            before.holders.begin(), before.holders.end(),
            [&](const HolderHint& hint) { return hint.peer.id == gone && !hint.stripes.empty(); });
        const Grant now = ask(reader, before.digest);
        if (!knew) continue;
        CHECK_FALSE(now.unchanged);
        CHECK(parents(now).size() == 2);
        CHECK(parents(now) != parents(before));
    }
}

TEST_CASE("plan: one that gets much less than most becomes a leaf") {
    Fleet fleet;
    const auto readers = fleet.start(7);
    const auto slow = std::find_if(readers.begin(), readers.end(), [&](const Reader& reader) {
        const auto own = parents(fleet.renew(reader));
        return std::any_of(own.begin(), own.end(),
                           [&](const auto& p) { return p.second == fleet.source.id; });
    });
    REQUIRE(slow != readers.end());
    for (int round = 0; round < 3; ++round) {
        fleet.now += milliseconds(300);
        for (const Reader& reader : readers) {
            fleet.renew(reader, {}, reader.peer.id == slow->peer.id ? 20e6 : 100e6);
        }
    }
    for (const Reader& reader : readers) {
        for (const auto& [stripe, parent] : parents(fleet.renew(reader))) {
            CHECK(parent != slow->peer.id);
        }
    }
    CHECK(parents(fleet.renew(*slow)).size() == 2);
}

TEST_CASE("plan: each byte enters a rack about once") {
    Fleet fleet;
    std::vector<Reader> readers;
    std::map<std::uint64_t, std::string> racks{{fleet.source.id, ""}};
    for (int i = 0; i < 16; ++i) {
        const std::string rack = fmt::format("rack-{}", i * 7 % 4);
        readers.push_back(fleet.open(fmt::format("r{}", i), rack));
        racks[readers.back().peer.id] = rack;
    }
    for (const Reader& reader : readers) fleet.renew(reader);
    fleet.now += milliseconds(100);
    std::map<std::string, int> entered;
    for (const Reader& reader : readers) {
        for (const auto& [stripe, parent] : parents(fleet.renew(reader))) {
            if (racks.at(parent) != racks.at(reader.peer.id)) ++entered[racks.at(reader.peer.id)];
        }
    }
    CHECK(entered.size() == 4);
    for (const auto& [rack, count] : entered) CHECK(count == 2);
}

TEST_CASE("plan: what a topology says of a host counts more than what its peers tell") {
    plan::FleetOptions fleet_options;
    fleet_options.receivers = 7;
    fleet_options.racks = 2;
    plan::Topology topology = plan::make_fleet(fleet_options);
    for (std::size_t i = 0; i < topology.hosts.size(); ++i) {
        topology.hosts[i].name = i == 0 ? "host-source" : fmt::format("host-r{}", i - 1);
    }
    StateOptions options;
    add_topology(topology, options.placement);
    Fleet fleet(options);
    std::vector<Reader> readers;
    for (int i = 0; i < 7; ++i) readers.push_back(fleet.open(fmt::format("r{}", i), "wrong"));
    for (const Reader& reader : readers) fleet.renew(reader);
    fleet.now += milliseconds(100);
    std::map<std::uint64_t, std::uint32_t> rack_of{{fleet.source.id, 0}};
    for (std::size_t i = 0; i < readers.size(); ++i) {
        rack_of[readers[i].peer.id] = topology.hosts[i + 1].rack;
    }
    std::uint32_t crossed = 0;
    for (const Reader& reader : readers) {
        for (const auto& [stripe, parent] : parents(fleet.renew(reader))) {
            crossed += rack_of[parent] == rack_of[reader.peer.id] ? 0 : 1;
        }
    }
    CHECK(crossed <= 3);  // about once for each stripe, into the rack without the source
}

TEST_CASE("plan: who is done is a source for those that come later") {
    Fleet fleet;
    const auto readers = fleet.start(1);
    Holding done = sample_holding(1, true);
    REQUIRE_OK(fleet.state.hold(readers[0].peer, done, fleet.now));
    const Reader late = fleet.open("late");
    fleet.renew(late);
    fleet.now += milliseconds(100);
    std::set<std::uint64_t> from;
    for (const auto& [stripe, parent] : parents(fleet.renew(late))) from.insert(parent);
    CHECK(!from.empty());
    CHECK(from.size() <= 2);
}

TEST_CASE("plan: sources with a cap far below the others' are not planned for") {
    Fleet fleet;
    PeerInfo slow = sample_peer("slow", 1, "host-slow");
    slow.serve_rate_max = 1'000'000;
    PeerInfo fast = sample_peer("fast", 1, "host-fast");
    fast.serve_rate_max = 100'000'000;
    std::vector<PeerRef> peers;
    for (const PeerInfo& info : {slow, fast}) {
        const auto lease = fleet.state.register_peer(info, fleet.now);
        REQUIRE_OK(lease);
        peers.push_back(lease.value().peer);
        REQUIRE_OK(fleet.state.hold(peers.back(), sample_holding(1, true), fleet.now));
    }
    const auto readers = fleet.start(1);
    for (const auto& [stripe, parent] : parents(fleet.renew(readers[0]))) {
        CHECK(parent != peers[0].id);
    }
}

}  // namespace
}  // namespace weightcast::registry
