// A registry's state machine with a hand-moved clock, which does what it decides.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "registry/state.h"
#include "tests/kit/catch.h"
#include "tests/unit/registry/samples.h"

namespace weightcast::registry {

using std::chrono::milliseconds;

class World {
  public:
    explicit World(std::uint64_t seed = 1, const std::string& boot = "boot-1",
                   std::uint32_t versions_kept = 128)
        : state({.lease_ms = 1000, .grace_ms = 200, .versions_kept = versions_kept},
                {"cluster", boot, kProtocolVersion}, seed) {}

    PeerRef join(const std::string& name, const std::string& host = "host-a") {
        const auto lease = state.register_peer(sample_peer(name, 1, host), now);
        REQUIRE_OK(lease);
        return lease.value().peer;
    }
    Result<PublishReply> publish(const PublishRequest& request) {
        WEIGHTCAST_TRY(const auto planned, state.publish(request, 5));
        for (const Change& change : planned.changes) state.apply(change);
        return planned.reply;
    }
    Result<ChannelInfo> set_channel(const SetChannelRequest& request) {
        WEIGHTCAST_TRY(const auto planned, state.set_channel(request, 5));
        for (const Change& change : planned.changes) state.apply(change);
        return planned.reply;
    }
    Result<void> report(const HolderReport& report) {
        WEIGHTCAST_TRY(const auto changes, state.report(report));
        for (const Change& change : changes) state.apply(change);
        return success();
    }
    // A complete holder of m@1.
    PeerRef join_holder(const std::string& name, bool complete = true,
                        const std::string& host = "host-a") {
        const PeerRef peer = join(name, host);
        REQUIRE_OK(state.hold(peer, sample_holding(1, complete), now));
        return peer;
    }
    // The publisher of m@1, which holds it.
    PeerRef join_publisher() {
        const PeerRef source = join("source", "host-s");
        REQUIRE_OK(publish(sample_publish(source, 1, "one")));
        REQUIRE_OK(state.hold(source, sample_holding(1, true), now));
        return source;
    }
    void pass(milliseconds time) {
        now += time;
        state.expire(now);
    }

    State state;
    TimePoint now{};
};

// Of the holders, in their order.
inline std::vector<std::string> names(const Grant& grant) {
    std::vector<std::string> all;
    for (const HolderHint& hint : grant.holders) all.push_back(hint.name);
    return all;
}

}  // namespace weightcast::registry
