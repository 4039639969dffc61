// A registry and nodes whose only transport is the seeded in-process fabric.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry/server.h"
#include "tests/kit/catch.h"
#include "tests/kit/scratch.h"
#include "tests/kit/shared_world.h"
#include "weightcast/node.h"

namespace weightcast {

inline constexpr std::uint64_t kChunk = 65536;

// The world that open_in_world() opens fabrics in; one test at a time has one.
inline kit::SharedWorld* current_world = nullptr;

inline Result<std::vector<std::unique_ptr<fabric::Fabric>>> open_in_world(
    std::span<const std::string> names, std::span<const std::string>,
    const fabric::FabricOptions& options) {
    WEIGHTCAST_TRY(auto fabric, current_world->open(options, "memory://" + names[0]));
    std::vector<std::unique_ptr<fabric::Fabric>> fabrics;
    fabrics.push_back(std::move(fabric));
    return fabrics;
}

struct Cluster {
    kit::SharedWorld world{1};
    std::unique_ptr<registry::Server> server;
    std::string weights = kit::noise(20 * kChunk + 777, 5);

    Cluster() {
        registry::ServerOptions options;
        options.listen = "127.0.0.1:0";
        auto started = registry::Server::start(options);
        REQUIRE_OK(started);
        server = std::move(started).value();
        current_world = &world;
    }

    // A node whose only transport is the world's, at the address "memory://NAME".
    std::unique_ptr<Node> node(const std::string& name) {
        NodeOptions options;
        options.registry = server->url();
        options.name = name;
        options.fabrics = {name};
        options.open_fabrics = open_in_world;
        auto started = Node::start(options);
        REQUIRE_OK(started);
        return std::move(started).value();
    }

    std::vector<TensorView> tensors() const {
        const auto bytes = std::as_bytes(std::span(weights));
        return {{"first", "U8", {1000}, bytes.first(1000)},
                {"rest", "U8", {bytes.size() - 1000}, bytes.subspan(1000)}};
    }

    Published publish(Node& node) {
        auto published = node.publish(tensors(), {.model = "m", .chunk_bytes = kChunk});
        REQUIRE_OK(published);
        return published.value();
    }

    void check(const PulledMemory& pulled) const {
        const auto views = pulled.tensors();
        REQUIRE(views.size() == 2);
        for (const TensorView& view : views) {
            const std::size_t offset = view.name == "first" ? 0 : 1000;
            REQUIRE(view.bytes.size() + offset <= weights.size());
            CHECK(std::memcmp(view.bytes.data(), weights.data() + offset, view.bytes.size()) == 0);
        }
    }

    void faults(const std::string& name, const transport::MemoryFaults& faults) {
        world.with([&](transport::MemoryWorld& w) { w.faults("memory://" + name) = faults; });
    }
};

inline PullOptions of_m() {
    PullOptions options;
    options.model = "m";
    options.no_holder_ms_max = 1500;
    return options;
}

}  // namespace weightcast
