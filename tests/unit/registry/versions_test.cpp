// Goal: what is known of versions stays bounded, and their manifests reach a fleet without its
// source sending one to each. Method: the state machine with a hand-moved clock.
#include "tests/unit/registry/world.h"

namespace weightcast::registry {
namespace {

TEST_CASE("old versions that nobody has and no channel names are retired, a few at a time") {
    World world(1, "boot", 3);
    const PeerRef source = world.join("source", "host-s");
    const auto publish = [&](std::uint64_t number) {
        return world.publish(sample_publish(source, number, "v" + std::to_string(number)));
    };
    const auto numbers = [&] {
        std::vector<std::uint64_t> all;
        const auto known = world.state.find_model("m");
        REQUIRE_OK(known);
        for (const VersionInfo& info : known.value().versions) all.push_back(info.version);
        return all;
    };
    const auto retire = [&](std::uint64_t but_not = 0) {
        const auto changes = world.state.retire("m", but_not);
        for (const Change& change : changes) world.state.apply(change);
        return changes.size();
    };
    for (std::uint64_t number = 1; number <= 20; ++number) REQUIRE_OK(publish(number));
    REQUIRE_OK(world.state.hold(source, sample_holding(2, true), world.now));
    const PeerRef liar = world.join("liar", "host-l");
    REQUIRE_OK(world.state.hold(liar, sample_holding(5, true), world.now));
    REQUIRE_OK(world.report({source, liar.id, "m", 5, ReportKind::corrupt, ""}));
    REQUIRE_OK(world.set_channel({"m", "stable", 3, {}, "", ""}));
    REQUIRE_OK(world.set_channel({"m", "canary", 3, {}, "", "", Canary{4, 10, {}}}));
    const PeerRef reader = world.join("reader", "host-r");
    const auto pull = world.state.open_pull(sample_pull(reader, "@6"), world.now);
    REQUIRE_OK(pull);
    CHECK(retire(7) == 4);  // 1, 8, 9 and 10
    CHECK(numbers().size() == 16);
    CHECK(numbers()[5] == 7);
    CHECK(numbers()[6] == 11);
    while (retire() > 0) continue;
    CHECK(numbers() == std::vector<std::uint64_t>{2, 3, 4, 5, 6, 18, 19, 20});
    CHECK(world.state.counts().versions == 8);
    // Nothing depends on them any more, and what peers said of them is forgotten.
    REQUIRE_OK(world.state.close_pull({reader, pull.value().pull}));
    world.state.leave(liar);
    world.state.leave(source);
    REQUIRE_OK(world.set_channel({"m", "stable", 20, {}, "", ""}));
    REQUIRE_OK(world.set_channel({"m", "canary", 20, {}, "", ""}));
    while (retire() > 0) continue;
    CHECK(numbers() == std::vector<std::uint64_t>{18, 19, 20});
    // The number still means what it meant.
    const PeerRef again = world.join("again", "host-s");
    PublishRequest other = sample_publish(again, 7, "v7");
    other.root.bytes[1] = std::byte{1};
    CHECK(world.publish(other).error().code == Code::conflict);
    const auto gone = world.state.open_pull(sample_pull(again, "@7"), world.now);
    CHECK(gone.error().code == Code::not_found);
    CHECK(gone.error().message.find("any more") != std::string::npos);
    const auto back = world.publish(sample_publish(again, 7, "v7"));
    REQUIRE_OK(back);
    CHECK(back.value().created);
    CHECK(numbers().front() == 7);
}

TEST_CASE("versions that are wanted do not keep others from being retired") {
    World world(1, "boot", 2);
    const PeerRef source = world.join("source", "host-s");
    const auto publish = [&](std::uint64_t number) {
        return world.publish(sample_publish(source, number, "v" + std::to_string(number)));
    };
    constexpr std::uint64_t kNamed = 300;  // more than are looked at in one go
    for (std::uint64_t number = 1; number <= kNamed; ++number) {
        REQUIRE_OK(publish(number));
        REQUIRE_OK(world.set_channel({"m", "c" + std::to_string(number), number, {}, "", ""}));
    }
    for (std::uint64_t number = kNamed + 1; number <= kNamed + 20; ++number) {
        REQUIRE_OK(publish(number));
    }
    for (int i = 0; i < 20; ++i) {
        for (const Change& change : world.state.retire("m", 0)) world.state.apply(change);
    }
    CHECK(world.state.counts().versions == kNamed + 2);
}

TEST_CASE("digests of the latest retired versions are known, and numbers before are not free") {
    StateOptions options;
    options.retired_max = 3;
    State state(options, {"cluster", "boot", kProtocolVersion}, 1);
    const auto lease = state.register_peer(sample_peer("a"), TimePoint{});
    REQUIRE_OK(lease);
    const PeerRef peer = lease.value().peer;
    for (std::uint64_t number = 10; number < 20; ++number) {
        state.apply(VersionRetired{"m", number, sample_publish(peer, number, "x").root});
    }
    const auto publish = [&](std::uint64_t number) {
        return state.publish(sample_publish(peer, number, "x"), 0);
    };
    for (const std::uint64_t number : {1U, 10U, 16U}) {
        CAPTURE(number);
        const auto refused = publish(number);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == Code::conflict);
        CHECK(refused.error().message.find("after 16") != std::string::npos);
    }
    CHECK(publish(17).has_value());
    CHECK(publish(20).has_value());
}

TEST_CASE("a large manifest is handed on: few ask its source, the others those who have it") {
    World world;
    const PeerRef source = world.join("source", "host-s");
    REQUIRE_OK(world.publish(sample_publish(source, 1, std::string(20000, 'x'))));
    const auto hold = [&](const PeerRef& peer, bool complete) {
        Holding holding = sample_holding(1, complete);
        holding.keys["tcp"].manifest = {std::byte{3}};
        REQUIRE_OK(world.state.hold(peer, holding, world.now));
    };
    hold(source, true);
    struct Reader {
        PeerRef peer;
        std::uint64_t pull = 0;
        std::string asks;
    };
    std::vector<Reader> readers;
    const auto note = [&](Reader& reader, const Result<Grant>& grant) {
        REQUIRE_OK(grant);
        CHECK(grant.value().holders.empty() == (grant.value().manifest_ms != 0));
        reader.asks = grant.value().holders.empty() ? "" : grant.value().holders[0].name;
        CHECK(grant.value().version.manifest_bytes == 20000);
        reader.pull = grant.value().pull;
    };
    for (int i = 0; i < 20; ++i) {
        const std::string name = "r" + std::to_string(i);
        readers.push_back({world.join(name, "host-" + name), 0, ""});
        note(readers.back(), world.state.open_pull(sample_pull(readers.back().peer), world.now));
        CHECK(readers.back().asks == (i < 8 ? "source" : ""));
    }
    const auto ask_again = [&](Reader& reader) {
        RenewRequest request{reader.peer, reader.pull, {}, 4};
        request.manifest = true;
        note(reader, world.state.renew_pull(request, world.now));
    };
    ask_again(readers[10]);
    CHECK(readers[10].asks.empty());
    // One dies, one gives up; both make room, and who has the manifest has room, too.
    world.state.leave(readers[0].peer);
    REQUIRE_OK(world.state.close_pull({readers[1].peer, readers[1].pull}));
    ask_again(readers[10]);
    CHECK(readers[10].asks == "source");
    hold(readers[2].peer, false);
    RenewRequest has{readers[2].peer, readers[2].pull, {}, 16};
    has.has_manifest = true;
    const auto told = world.state.renew_pull(has, world.now);
    REQUIRE_OK(told);
    CHECK(told.value().unchanged);
    CHECK(told.value().plan_ms == 0);
    ask_again(readers[11]);
    CHECK(readers[11].asks == "r2");
    // Who shares a host with a holder asks that one.
    readers.push_back({world.join("near", "host-s"), 0, ""});
    note(readers.back(), world.state.open_pull(sample_pull(readers.back().peer), world.now));
    CHECK(readers.back().asks == "source");
}

}  // namespace
}  // namespace weightcast::registry
