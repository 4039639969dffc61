// Goal: the registry's rules hold: leases, fencing, immutability, generations, hints, quarantine.
// Method: drive the state machine with a hand-moved clock, applying what it decides.
#include "registry/state.h"

#include <algorithm>
#include <set>

#include "tests/kit/catch.h"
#include "tests/unit/registry/world.h"

namespace weightcast::registry {
namespace {

TEST_CASE("peer lives as long as it is heard within lease and grace, then is stale") {
    World world;
    const PeerRef peer = world.join("a");
    world.pass(milliseconds(1100));
    REQUIRE_OK(world.state.heartbeat({peer, {}}, world.now));
    world.pass(milliseconds(1199));
    REQUIRE_OK(world.state.heartbeat({peer, {}}, world.now));
    world.pass(milliseconds(1200));
    const auto late = world.state.heartbeat({peer, {}}, world.now);
    REQUIRE(late.has_error());
    CHECK(late.error().code == Code::stale);
    CHECK(late.error().message.find("register again") != std::string::npos);
    CHECK(world.state.publish(sample_publish(peer, 1, "x"), 0).error().code == Code::stale);
    CHECK(world.state.counts().peers == 0);
}

TEST_CASE("registry that stood still itself expires nobody until peers could be heard again") {
    World world;
    const PeerRef peer = world.join("a");
    world.now += milliseconds(5000);
    world.state.forgive_until(world.now + milliseconds(1000));
    world.state.expire(world.now);
    REQUIRE_OK(world.state.heartbeat({peer, {}}, world.now));
    world.pass(milliseconds(1200));
    CHECK(world.state.counts().peers == 0);
}

TEST_CASE("living name is refused to another life, kept by the same, given to a take-over") {
    World world;
    const PeerRef first = world.join("a");
    CHECK(world.join("a").id == first.id);
    PeerInfo second = sample_peer("a", 2);
    const auto refused = world.state.register_peer(second, world.now);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == Code::conflict);
    second.take_over = true;
    const auto taken = world.state.register_peer(second, world.now);
    REQUIRE_OK(taken);
    CHECK(taken.value().peer.id != first.id);
    CHECK(world.state.heartbeat({first, {}}, world.now).error().code == Code::stale);
    CHECK(world.state.counts().peers == 1);
}

TEST_CASE("wrong epoch of a living id is stale") {
    World world;
    PeerRef peer = world.join("a");
    ++peer.epoch;
    CHECK(world.state.heartbeat({peer, {}}, world.now).error().code == Code::stale);
}

TEST_CASE("another protocol is refused by name with both versions") {
    World world;
    PeerInfo info = sample_peer("old");
    info.protocol = 77;
    const auto refused = world.state.register_peer(info, world.now);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == Code::refused);
    CHECK(refused.error().message.find("old speaks protocol 77") != std::string::npos);
    CHECK(refused.error().message.find("protocol " + std::to_string(kProtocolVersion)) !=
          std::string::npos);
}

TEST_CASE("restarted registry knows neither peers nor read leases of its earlier boot") {
    World before(1);
    const PeerRef peer = before.join("a");
    World after(2, "boot-2");
    after.join("b");
    CHECK(after.state.heartbeat({peer, {}}, after.now).error().code == Code::stale);
    CHECK(after.state.cluster().boot_epoch != before.state.cluster().boot_epoch);
}

TEST_CASE("version is immutable: the same bytes again are no change, others a conflict") {
    World world;
    const PeerRef a = world.join("a");
    const PeerRef b = world.join("b");
    const auto first = world.publish(sample_publish(a, 1, "one", "stable"));
    REQUIRE_OK(first);
    CHECK(first.value().created);
    CHECK(first.value().generation == 1);
    const auto again = world.publish(sample_publish(b, 1, "one", "stable"));
    REQUIRE_OK(again);
    CHECK_FALSE(again.value().created);
    CHECK(again.value().generation == 1);
    CHECK(again.value().version.publisher == "a");
    const PublishRequest other = sample_publish(b, 1, "two", "stable");
    const auto loser = world.publish(other);
    REQUIRE(loser.has_error());
    CHECK(loser.error().code == Code::conflict);
    for (const auto& digest : {other.manifest, first.value().version.manifest}) {
        CHECK(loser.error().message.find(model::to_string(digest)) != std::string::npos);
    }
}

TEST_CASE("publish moves a channel forwards only, setting it moves it anywhere") {
    World world;
    const PeerRef a = world.join("a");
    REQUIRE_OK(world.publish(sample_publish(a, 5, "five", "stable")));
    const auto older = world.publish(sample_publish(a, 4, "four", "stable"));
    REQUIRE_OK(older);
    CHECK(older.value().generation == 1);
    const auto back = world.set_channel({"m", "stable", 4, 1, "me", "rollback"});
    REQUIRE_OK(back);
    CHECK(back.value().generation == 2);
    REQUIRE_OK(world.publish(sample_publish(a, 5, "five", "stable")));
    const auto grant = world.state.open_pull(sample_pull(a, ""), world.now);
    REQUIRE_OK(grant);
    CHECK(grant.value().version.version == 4);
    CHECK(grant.value().generation == 2);
}

TEST_CASE("who may hold no more cannot move a channel to a version that nobody would have") {
    World world;
    const PeerRef peer = world.join("a");
    const auto publish = [&](std::uint64_t version) -> Result<void> {
        WEIGHTCAST_CHECK(
            world.publish(sample_publish(peer, version, std::to_string(version), "stable")));
        return world.state.hold(peer, sample_holding(version, true), world.now);
    };
    std::uint64_t version = 1;
    while (publish(version)) ++version;
    const auto refused = publish(version);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == Code::no_space);
    CHECK(refused.error().message.find("64 holdings") != std::string::npos);
    const PeerRef reader = world.join("reader");
    const auto pull = world.state.open_pull({reader, "m", ""}, world.now);
    REQUIRE_OK(pull);
    CHECK(pull.value().version.version == version - 1);
    // What it holds already it may publish again.
    REQUIRE_OK(publish(1));
}

TEST_CASE("channel is compared and swapped by generation") {
    World world;
    const PeerRef a = world.join("a");
    REQUIRE_OK(world.publish(sample_publish(a, 1, "one")));
    REQUIRE_OK(world.set_channel({"m", "canary", 1, 0, "", ""}));
    const auto lost = world.set_channel({"m", "canary", 1, 0, "", ""});
    REQUIRE(lost.has_error());
    CHECK(lost.error().code == Code::conflict);
    CHECK(lost.error().message.find("generation 1") != std::string::npos);
    CHECK(world.set_channel({"m", "canary", 1, {}, "", ""}).value().generation == 2);
    CHECK(world.set_channel({"m", "canary", 9, {}, "", ""}).error().code == Code::not_found);
    CHECK(world.set_channel({"x", "canary", 1, {}, "", ""}).error().code == Code::not_found);
}

TEST_CASE("pull is resolved by version or channel, and what is unknown is not found") {
    World world;
    const PeerRef a = world.join("a");
    REQUIRE_OK(world.publish(sample_publish(a, 1, "one", "canary")));
    CHECK(world.state.open_pull(sample_pull(a, ":canary"), world.now).value().channel == "canary");
    CHECK(world.state.open_pull(sample_pull(a, "@1"), world.now).value().holders.empty());
    CHECK(world.state.open_pull(sample_pull(a, ""), world.now).error().code == Code::not_found);
    CHECK(world.state.open_pull(sample_pull(a, "@2"), world.now).error().code == Code::not_found);
    CHECK(world.state.open_pull(sample_pull(a, "@1x"), world.now).error().code ==
          Code::invalid_input);
    CHECK(world.state.open_pull(sample_pull(a, "1"), world.now).error().code ==
          Code::invalid_input);
}

TEST_CASE("hints: own host first, then the least read, never the reader, one that is complete") {
    World world;
    const PeerRef source = world.join("source", "host-s");
    REQUIRE_OK(world.publish(sample_publish(source, 1, "one")));
    REQUIRE_OK(world.state.hold(source, sample_holding(1, true), world.now));
    for (int i = 0; i < 8; ++i) {
        world.join_holder("relay" + std::to_string(i), false, "host-" + std::to_string(i));
    }
    const PeerRef reader = world.join_holder("reader", false, "host-3");
    // The source has readers, relays have none.
    for (int i = 0; i < 3; ++i) {
        REQUIRE_OK(world.state.open_pull(
            sample_pull(world.join("other" + std::to_string(i), "elsewhere"), "@1", 1), world.now));
    }
    const auto grant = world.state.open_pull(sample_pull(reader, "@1", 4), world.now);
    REQUIRE_OK(grant);
    const auto hinted = names(grant.value());
    REQUIRE(hinted.size() == 4);
    CHECK(hinted.front() == "relay3");
    CHECK(hinted.back() == "source");
    CHECK(std::count(hinted.begin(), hinted.end(), "reader") == 0);
    CHECK(std::set(hinted.begin(), hinted.end()).size() == 4);
}

TEST_CASE("readers spread over holders, and leave them when they close or die") {
    World world;
    const PeerRef source = world.join_publisher();
    std::map<std::string, int> picked;
    std::vector<PeerRef> readers;
    std::vector<std::uint64_t> pulls;
    for (int i = 0; i < 3; ++i) world.join_holder("h" + std::to_string(i), true, "host-h");
    for (int i = 0; i < 40; ++i) {
        readers.push_back(world.join("r" + std::to_string(i), "host-r"));
        const auto grant = world.state.open_pull(sample_pull(readers.back(), "@1", 1), world.now);
        REQUIRE_OK(grant);
        pulls.push_back(grant.value().pull);
        ++picked[grant.value().holders.at(0).name];
    }
    REQUIRE(picked.size() == 4);
    for (const auto& [name, count] : picked) CHECK(count == 10);
    for (std::size_t i = 0; i < 20; ++i) {
        REQUIRE_OK(world.state.close_pull({readers[i], pulls[i], true, 10, 1, 1}));
    }
    CHECK(world.state.counts().bytes_pulled == 200);
    world.pass(milliseconds(1100));
    REQUIRE_OK(world.state.heartbeat({source, {}}, world.now));
    world.pass(milliseconds(200));
    const auto peers = world.state.list_peers(world.now);
    REQUIRE(peers.size() == 1);
    CHECK(peers[0].readers == 0);
    CHECK(world.state.counts().pulls == 0);
}

TEST_CASE("renewal avoids whom it is told to, and ends with the reader's registration") {
    World world;
    world.join_publisher();
    const PeerRef other = world.join_holder("other");
    const PeerRef reader = world.join("reader");
    const auto grant = world.state.open_pull(sample_pull(reader), world.now);
    REQUIRE_OK(grant);
    CHECK(grant.value().holders.size() == 2);
    const auto renewed =
        world.state.renew_pull({reader, grant.value().pull, {other.id}, 16}, world.now);
    REQUIRE_OK(renewed);
    CHECK(names(renewed.value()) == std::vector<std::string>{"source"});
    CHECK(renewed.value().holders[0].readers == 1);
    CHECK(world.state.renew_pull({other, grant.value().pull, {}, 16}, world.now).error().code ==
          Code::stale);
    world.state.leave(reader);
    CHECK(world.state.renew_pull({reader, grant.value().pull, {}, 16}, world.now).error().code ==
          Code::stale);
}

TEST_CASE("corrupt holder: gone at once for its accuser, for all after a second reader") {
    World world;
    const PeerRef source = world.join_publisher();
    const PeerRef bad = world.join_holder("bad");
    const PeerRef first = world.join("first");
    const PeerRef second = world.join("second");
    const PeerRef third = world.join("third");
    const HolderReport accusation{first, bad.id, "m", 1, ReportKind::corrupt, "chunk 3"};
    REQUIRE_OK(world.report(accusation));
    REQUIRE_OK(world.report(accusation));
    CHECK(names(world.state.open_pull(sample_pull(first), world.now).value()).size() == 1);
    CHECK(names(world.state.open_pull(sample_pull(third), world.now).value()).size() == 2);
    HolderReport again = accusation;
    again.reporter = second;
    world.state.take_events();
    REQUIRE_OK(world.report(again));
    const auto events = world.state.take_events();
    REQUIRE(events.size() == 1);
    CHECK(events[0].kind == EventKind::holder_quarantined);
    CHECK(events[0].peer == bad.id);
    CHECK(names(world.state.open_pull(sample_pull(third), world.now).value()) ==
          std::vector<std::string>{"source"});
    // Holding the same version again does not clear it.
    REQUIRE_OK(world.state.hold(bad, sample_holding(1, true), world.now));
    CHECK(names(world.state.open_pull(sample_pull(third), world.now).value()).size() == 1);
    CHECK(world.state.counts().quarantines == 1);
    CHECK_FALSE(world.state.list_models()[0].versions[0].quarantined);
    REQUIRE_OK(world.state.heartbeat({source, {}}, world.now));
}

TEST_CASE("changed source: its holding goes, the version too if nobody else has all of it") {
    World world;
    const PeerRef source = world.join_publisher();
    const PeerRef other = world.join_holder("other");
    const PeerRef reader = world.join("reader");
    HolderReport report{reader, source.id, "m", 1, ReportKind::source_changed, ""};
    CHECK(world.report(report).error().code == Code::refused);
    report.reporter = source;
    REQUIRE_OK(world.report(report));
    CHECK(names(world.state.open_pull(sample_pull(reader), world.now).value()) ==
          std::vector<std::string>{"other"});
    CHECK_FALSE(world.state.list_models()[0].versions[0].quarantined);
    REQUIRE_OK(world.report({other, other.id, "m", 1, ReportKind::source_changed, ""}));
    CHECK(world.state.open_pull(sample_pull(reader), world.now).value().version.quarantined);
    // Publishing the same bytes again takes it back.
    REQUIRE_OK(world.publish(sample_publish(source, 1, "one")));
    CHECK_FALSE(world.state.open_pull(sample_pull(reader), world.now).value().version.quarantined);
}

TEST_CASE("progress in a heartbeat makes a partial holder complete, buckets are found") {
    World world;
    world.join_publisher();
    const PeerRef part = world.join_holder("part", false);
    CHECK(world.state.holders_of_bucket("m", 1, 2, 10).value().size() == 2);
    CHECK(world.state.holders_of_bucket("m", 1, 3, 10).value().size() == 1);
    CHECK(world.state.holders_of_bucket("m", 1, 10, 10).error().code == Code::invalid_input);
    CHECK(world.state.list_models()[0].versions[0].holders_partial == 1);
    REQUIRE_OK(world.state.heartbeat({part, {{"m", 1, true, 1000, "ff03"}}}, world.now));
    CHECK(world.state.holders_of_bucket("m", 1, 9, 10).value().size() == 2);
    CHECK(world.state.list_models()[0].versions[0].holders_complete == 2);
    REQUIRE_OK(world.state.drop({part, "m", 1}));
    CHECK(world.state.list_models()[0].versions[0].holders_complete == 1);
}

TEST_CASE("who drops a version is told how many still read it from there") {
    World world;
    const PeerRef source = world.join_publisher();
    const PeerRef one = world.join("one", "far");
    const PeerRef two = world.join("two", "far");
    const auto first = world.state.open_pull(sample_pull(one), world.now);
    const auto second = world.state.open_pull(sample_pull(two), world.now);
    REQUIRE_OK(first);
    REQUIRE_OK(second);
    const auto readers = [&] { return world.state.drop({source, "m", 1}).value().readers; };
    CHECK(readers() == 2);
    const auto turned =
        world.state.renew_pull({.peer = two, .pull = second.value().pull}, world.now);
    REQUIRE_OK(turned);
    CHECK(turned.value().holders.empty());
    CHECK(readers() == 2);  // It may go on with whom it knows.
    REQUIRE_OK(world.state.renew_pull(
        {.peer = two, .pull = second.value().pull, .avoid = {source.id}}, world.now));
    CHECK(readers() == 1);
    REQUIRE_OK(world.state.close_pull({.peer = one, .pull = first.value().pull}));
    CHECK(readers() == 0);
}

TEST_CASE("the last copy of what a channel names is not dropped if so asked") {
    World world;
    const PeerRef source = world.join_publisher();
    REQUIRE_OK(world.set_channel({"m", "stable", 1, 0, "", ""}));
    CHECK(world.state.drop({source, "m", 1, true}).error().code == Code::conflict);
    const PeerRef part = world.join_holder("part", false);
    REQUIRE_OK(world.state.drop({part, "m", 1, true}));
    const PeerRef other = world.join_holder("other");
    REQUIRE_OK(world.state.drop({source, "m", 1, true}));
    CHECK(world.state.drop({other, "m", 1, true}).error().code == Code::conflict);
    REQUIRE_OK(world.state.drop({other, "m", 1, false}));
}

TEST_CASE("same seed and same commands give the same hints") {
    const auto play = [](std::uint64_t seed) {
        World world(seed);
        world.join_publisher();
        for (int i = 0; i < 20; ++i) world.join_holder("h" + std::to_string(i));
        const PeerRef reader = world.join("reader", "far");
        return names(world.state.open_pull(sample_pull(reader, "@1", 5), world.now).value());
    };
    CHECK(play(3) == play(3));
    CHECK(play(3) != play(4));
}

}  // namespace
}  // namespace weightcast::registry
