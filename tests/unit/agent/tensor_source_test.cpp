// Goal: a trainer's tensors are published again and again as they change in place, and nobody gets
// bytes of one version for those of another. Method: over the in-process fabric, with readers that
// are slow or gone.
#include "weightcast/tensor_source.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "registry/client.h"
#include "tests/unit/agent/cluster.h"

namespace weightcast {
namespace {

using namespace std::chrono_literals;

struct Tensors {
    std::vector<std::byte> memory = std::vector<std::byte>(24 * kChunk);

    void fill(std::byte value) { std::ranges::fill(memory, value); }
    std::vector<TensorView> views() const {
        const auto bytes = std::span(memory);
        return {{"low", "U8", {bytes.size() / 2}, bytes.first(bytes.size() / 2)},
                {"high", "U8", {bytes.size() / 2}, bytes.last(bytes.size() / 2)}};
    }
};

PublishOptions publish_m() { return {.model = "m", .chunk_bytes = kChunk}; }

TEST_CASE("tensors are published in place again and again") {
    Cluster cluster;
    const auto trainer = cluster.node("trainer");
    const auto replica = cluster.node("replica");
    Tensors tensors;
    auto opened = trainer->open_source(tensors.views());
    REQUIRE_OK(opened);
    TensorSource& source = *opened.value();
    for (std::uint64_t step = 1; step <= 3; ++step) {
        CHECK(source.begin_update(5s));
        tensors.fill(static_cast<std::byte>(step));
        const auto published = source.publish(publish_m());
        REQUIRE_OK(published);
        CHECK(published.value().version == step);
        // Registered when it was opened, and not again.
        CHECK(published.value().registration_seconds == 0);
        auto options = of_m();
        options.serve = false;
        const auto pulled = replica->pull_memory(options);
        REQUIRE_OK(pulled);
        CHECK(pulled.value()->report().corrupt_chunks == 0);
        for (const TensorView& tensor : pulled.value()->tensors()) {
            CHECK(std::ranges::count(tensor.bytes, static_cast<std::byte>(step)) ==
                  static_cast<std::ptrdiff_t>(tensor.bytes.size()));
        }
    }
}

TEST_CASE("an update waits for readers, and refuses those that are left") {
    Cluster cluster;
    const auto trainer = cluster.node("trainer");
    Tensors tensors;
    tensors.fill(std::byte{1});
    auto opened = trainer->open_source(tensors.views());
    REQUIRE_OK(opened);
    TensorSource& source = *opened.value();
    REQUIRE_OK(source.publish(publish_m()));
    // A reader that holds a lease and reads nothing.
    auto api = registry::connect({.url = cluster.server->url()});
    REQUIRE_OK(api);
    registry::PeerInfo info;
    info.name = "reader";
    info.host = "far";
    info.incarnation[0] = std::byte{1};
    const auto lease = api.value()->register_peer(info);
    REQUIRE_OK(lease);
    const auto grant = api.value()->open_pull({lease.value().peer, "m", ""});
    REQUIRE_OK(grant);
    REQUIRE(grant.value().holders.size() == 1);
    SECTION("that does not end") {
        CHECK_FALSE(source.begin_update(20ms));
        tensors.fill(std::byte{2});
        const auto again = source.publish(publish_m());
        REQUIRE_OK(again);
        CHECK(again.value().version == 2);
        CHECK(again.value().cut_off);
        // The keys that it knows lead nowhere; there are others now.
        const auto next = api.value()->open_pull({lease.value().peer, "m", ""});
        REQUIRE_OK(next);
        REQUIRE(next.value().holders.size() == 1);
        const auto& old_keys = grant.value().holders[0].holding.keys.begin()->second;
        const auto& new_keys = next.value().holders[0].holding.keys.begin()->second;
        CHECK(old_keys.regions != new_keys.regions);
    }
    SECTION("that ends meanwhile") {
        Result<void> closed = success();
        std::thread ender([&] {
            closed = api.value()->close_pull({lease.value().peer, grant.value().pull});
        });
        CHECK(source.begin_update(20s));
        ender.join();
        REQUIRE_OK(closed);
        const auto again = source.publish(publish_m());
        REQUIRE_OK(again);
        CHECK_FALSE(again.value().cut_off);
    }
}

TEST_CASE("tensors that are written to while they are served are refused, never delivered") {
    Cluster cluster;
    const auto trainer = cluster.node("trainer");
    const auto replica = cluster.node("replica");
    Tensors tensors;
    tensors.fill(std::byte{1});
    auto opened = trainer->open_source(tensors.views());
    REQUIRE_OK(opened);
    REQUIRE_OK(opened.value()->publish(publish_m()));
    std::ranges::fill(std::span(tensors.memory).subspan(5 * kChunk, 10), std::byte{2});
    auto options = of_m();
    options.no_holder_ms_max = 200;
    const auto pulled = replica->pull_memory(options);
    CHECK(pulled.has_error());
    // A whole copy again, published under the same rules: it is got.
    CHECK(opened.value()->begin_update(5s));
    REQUIRE_OK(opened.value()->publish(publish_m()));
    CHECK(replica->pull_memory(options).has_value());
}

TEST_CASE("a source that is gone is served no more") {
    Cluster cluster;
    const auto trainer = cluster.node("trainer");
    const auto replica = cluster.node("replica");
    Tensors tensors;
    auto opened = trainer->open_source(tensors.views());
    REQUIRE_OK(opened);
    REQUIRE_OK(opened.value()->publish(publish_m()));
    opened.value().reset();
    auto options = of_m();
    options.no_holder_ms_max = 50;
    CHECK(replica->pull_memory(options).error().code == Code::unavailable);
}

}  // namespace
}  // namespace weightcast
