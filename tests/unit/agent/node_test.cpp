// Goal: nodes publish, pull and serve to each other, and faults of the network and of holders end
// as they should. Method: a real registry on loopback; the bytes move over the seeded in-process
// fabric, which injects the faults, or over shared memory.
#include "weightcast/node.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/agent/cluster.h"
#include "transport/open.h"

namespace weightcast {
namespace {

std::uint64_t share(const PullReport& report, const std::string& peer) {
    const auto found = std::find_if(report.holders.begin(), report.holders.end(),
                                    [&](const HolderShare& s) { return s.peer == peer; });
    return found == report.holders.end() ? 0 : found->bytes;
}

TEST_CASE("what one node publishes another one gets, and the report says from whom") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    CHECK(cluster.publish(*a).version == 1);
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
    const PullReport& report = pulled.value()->report();
    CHECK(report.bytes == report.bytes_read);
    CHECK(share(report, "a") == report.bytes);
    CHECK(report.corrupt_chunks == 0);
}

TEST_CASE("the same bytes are the same version, other bytes the next one") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    CHECK(cluster.publish(*a).created);
    const Published again = cluster.publish(*b);
    CHECK(again.version == 1);
    CHECK_FALSE(again.created);
    cluster.weights[5] ^= 1;
    CHECK(cluster.publish(*b).version == 2);
}

TEST_CASE("one version with two contents is refused, and the message names both") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    const std::string other(5000, 'o');
    const std::vector<TensorView> tensors{{"first", "U8", {5000}, std::as_bytes(std::span(other))}};
    const auto refused = b->publish(tensors, {.model = "m", .version = 1});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == Code::conflict);
}

TEST_CASE("a pull that is asked to stop leaves its directory to the next one, which goes on") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    const kit::Scratch scratch;
    std::stop_source stop;
    auto options = of_m();
    options.directory = scratch.path("copy");
    options.stop = stop.get_token();
    stop.request_stop();
    CHECK(b->pull(options).error().code == Code::cancelled);
    const std::uint64_t second = [&] {
        cluster.weights[5] ^= 1;
        return cluster.publish(*a).version;
    }();
    options.stop = {};
    auto pulled = b->pull(options);
    REQUIRE_OK(pulled);
    CHECK(pulled.value().version == second);
}

TEST_CASE("a bit flip in transit is noticed, and the chunk read again") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    cluster.faults("a", {.corrupt_read = 9});
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
    CHECK(pulled.value()->report().corrupt_chunks == 1);
    CHECK(pulled.value()->report().bytes_read > pulled.value()->report().bytes);
}

TEST_CASE("a holder whose keys name other bytes is quarantined, the rest comes from elsewhere") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto c = cluster.node("c");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    cluster.publish(*c);
    cluster.faults("a", {.corruption = 1});
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
    CHECK(share(pulled.value()->report(), "c") >= pulled.value()->report().bytes);
}

TEST_CASE("a holder whose keys are stale is left for another") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto c = cluster.node("c");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    cluster.publish(*c);
    cluster.world.with([](transport::MemoryWorld& w) { w.expire_keys("memory://a"); });
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
    CHECK(share(pulled.value()->report(), "a") == 0);
}

TEST_CASE("a dead and a silent holder are left for a living one") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto c = cluster.node("c");
    const auto d = cluster.node("d");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    cluster.publish(*c);
    cluster.publish(*d);
    cluster.world.with([](transport::MemoryWorld& w) {
        w.kill("memory://a");
        w.pause("memory://d");
    });
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
    CHECK(share(pulled.value()->report(), "c") == pulled.value()->report().bytes);
    cluster.world.with([](transport::MemoryWorld& w) { w.resume("memory://d"); });
}

TEST_CASE("with all holders gone a pull ends with an error that says so") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    cluster.world.with([](transport::MemoryWorld& w) { w.kill("memory://a"); });
    const auto pulled = b->pull_memory(of_m());
    REQUIRE(pulled.has_error());
    CHECK(pulled.error().code == Code::unavailable);
    CHECK(pulled.error().message.find("m@1") != std::string::npos);
}

TEST_CASE("reads that are lost are read again") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto c = cluster.node("c");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    cluster.publish(*c);
    cluster.faults("a", {.loss = 0.3});
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
}

TEST_CASE("who has pulled serves, also when the publisher is gone") {
    Cluster cluster;
    auto a = cluster.node("a");
    const auto b = cluster.node("b");
    const auto c = cluster.node("c");
    cluster.publish(*a);
    auto first = b->pull_memory(of_m());
    REQUIRE_OK(first);
    a.reset();
    auto second = c->pull_memory(of_m());
    REQUIRE_OK(second);
    cluster.check(*second.value());
    CHECK(share(second.value()->report(), "b") == second.value()->report().bytes);
    // Memory goes before the node that serves it.
    second.value().reset();
    first.value().reset();
}

TEST_CASE("a withdrawn version cannot be read any more") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    // It would be lost for those who follow the channel.
    CHECK(a->withdraw("m", 1).error().code == Code::conflict);
    REQUIRE_OK(a->withdraw("m", 1, {.even_last = true}));
    CHECK(a->withdraw("m", 1).error().code == Code::not_found);
    CHECK(b->pull_memory(of_m()).error().code == Code::unavailable);
}

TEST_CASE("a version that others have too, or that nothing names, can be withdrawn") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    REQUIRE_OK(a->withdraw("m", 1));
    CHECK(b->withdraw("m", 1).error().code == Code::conflict);
    cluster.weights[5] ^= 1;
    cluster.publish(*a);  // The channel moves on.
    REQUIRE_OK(b->withdraw("m", 1));
}

TEST_CASE("tensors that are not as expected are refused before a byte is read") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    PullOptions options = of_m();
    options.expected = {{"first", "U8", {1000}, {}}, {"rest", "BF16", {12}, {}}};
    const auto wrong = b->pull_memory(options);
    REQUIRE(wrong.has_error());
    CHECK(wrong.error().code == Code::invalid_input);
    CHECK(wrong.error().message.find("rest") != std::string::npos);
    options.expected = {{"first", "U8", {1000}, {}}};
    CHECK(b->pull_memory(options).has_value());
}

TEST_CASE("chosen tensors move little more than their own bytes") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    PullOptions options = of_m();
    options.tensors = {"fir*"};
    auto pulled = b->pull_memory(options);
    REQUIRE_OK(pulled);
    REQUIRE(pulled.value()->tensors().size() == 1);
    const auto first = pulled.value()->tensor("first");
    REQUIRE_OK(first);
    CHECK(std::memcmp(first.value().bytes.data(), cluster.weights.data(), 1000) == 0);
    CHECK(pulled.value()->tensor("rest").error().code == Code::not_found);
    CHECK(pulled.value()->report().bytes_read <= 2 * kChunk);
    options.tensors = {"nothing*"};
    CHECK(b->pull_memory(options).error().code == Code::not_found);
}

TEST_CASE("pulls that are refused give their read leases back") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    PullOptions refused = of_m();
    refused.tensors = {"nothing*"};
    // More than the registry lets one peer have open at a time.
    for (int i = 0; i < 300; ++i) {
        REQUIRE(b->pull_memory(refused).error().code == Code::not_found);
    }
    CHECK(b->pull_memory(of_m()).has_value());
}

TEST_CASE("a failed pull of what this node publishes leaves it published") {
    Cluster cluster;
    const auto a = cluster.node("a");
    const auto b = cluster.node("b");
    cluster.publish(*a);
    REQUIRE(a->pull_memory(of_m()).error().code == Code::unavailable);
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    cluster.check(*pulled.value());
}

TEST_CASE("a name that lives cannot be taken, unless it is taken over") {
    Cluster cluster;
    const auto a = cluster.node("a");
    NodeOptions options;
    options.registry = cluster.server->url();
    options.name = "a";
    options.fabrics = {"a2"};
    options.open_fabrics = open_in_world;
    const auto refused = Node::start(options);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == Code::conflict);
    options.fabrics = {"a3"};
    options.take_over = true;
    CHECK(Node::start(options).has_value());
}

TEST_CASE("a reader on the same host can use a holder's pages as they are") {
    Cluster cluster;
    const auto start = [&](const std::string& name) {
        NodeOptions options;
        options.registry = cluster.server->url();
        options.name = name;
        options.fabrics = {"shm"};
        options.open_fabrics = transport::open_fabrics;
        auto node = Node::start(options);
        REQUIRE_OK(node);
        return std::move(node).value();
    };
    const auto a = start("a");
    const auto b = start("b");
    const auto c = start("c");
    cluster.publish(*a);
    // Private memory cannot be mapped by others, what was pulled into shared memory can.
    CHECK(c->map_memory(of_m()).error().code == Code::unavailable);
    auto pulled = b->pull_memory(of_m());
    REQUIRE_OK(pulled);
    auto mapped = c->map_memory(of_m());
    REQUIRE_OK(mapped);
    cluster.check(*mapped.value());
    CHECK(mapped.value()->report().bytes_read == 0);
    pulled.value().reset();
}

}  // namespace
}  // namespace weightcast
