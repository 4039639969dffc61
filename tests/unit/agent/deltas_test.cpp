// Goal: an update moves what changed, over one set of deltas or several, and never gives wrong
// bytes whatever the deltas say. Method: a trainer that changes a few values everywhere, replicas
// with two slots, in place, in a directory, and far behind; deltas that lie.
#include "agent/deltas.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "registry/client.h"
#include "tests/unit/agent/cluster.h"
#include "weightcast/tensor_source.h"
#include "weightcast/weight_set.h"

namespace weightcast {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(30000);

// BF16 weights of which a step changes one in a hundred.
class SparseTrainer {
  public:
    explicit SparseTrainer(Cluster& cluster, bool deltas = true)
        : weights_(40 * kChunk / 2), node_(cluster.node("trainer")) {
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            weights_[i] = static_cast<std::uint16_t>(i * 2654435761U >> 7U);
        }
        auto source = node_->open_source(
            std::vector<TensorView>{
                {"w", "BF16", {weights_.size()}, std::as_bytes(std::span(weights_))}},
            {.deltas = deltas});
        REQUIRE_OK(source);
        source_ = std::move(source).value();
    }

    Published step(std::size_t one_in = 100) {
        source_->begin_update(std::chrono::milliseconds(0));
        ++step_;
        for (std::size_t i = step_; i < weights_.size(); i += one_in) weights_[i] ^= 3;
        auto published = source_->publish({.model = "m", .chunk_bytes = kChunk});
        REQUIRE_OK(published);
        return published.value();
    }

    bool same(std::span<const std::byte> bytes) const {
        return std::ranges::equal(bytes, std::as_bytes(std::span(weights_)));
    }
    Node& node() { return *node_; }

  private:
    std::vector<std::uint16_t> weights_;
    std::size_t step_ = 0;
    std::unique_ptr<Node> node_;
    std::unique_ptr<TensorSource> source_;
};

PullReport pull(Node& node, const SparseTrainer& trainer, PullOptions options = of_m()) {
    auto pulled = node.pull_memory(options);
    REQUIRE_OK(pulled);
    CHECK(trainer.same(pulled.value()->tensor("w").value().bytes));
    return pulled.value()->report();
}

TEST_CASE("what changed is moved, and the rest is made from what is there") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    const auto replica = cluster.node("replica");
    trainer.step();
    CHECK(pull(*replica, trainer).delta_bytes == 0);
    for (int i = 0; i < 3; ++i) {
        trainer.step();
        const PullReport report = pull(*replica, trainer);
        CHECK(report.bytes_read == report.delta_bytes);
        CHECK(report.bytes_read < report.bytes / 20);
        CHECK(report.bytes_patched + report.bytes_reused == report.bytes);
    }
}

TEST_CASE("several versions behind, a chain of deltas is applied while it is worth it") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    const auto replica = cluster.node("replica");
    trainer.step();
    pull(*replica, trainer);
    const bool worth = GENERATE(true, false);
    for (int i = 0; i < 3; ++i) trainer.step(worth ? 100 : 2);
    const PullReport report = pull(*replica, trainer);
    if (worth) {
        CHECK(report.bytes_read < report.bytes / 10);
        CHECK(report.bytes_patched > 0);
    } else {
        CHECK(report.bytes_patched == 0);
        CHECK(report.bytes_read - report.delta_bytes == report.bytes - report.bytes_reused);
    }
}

TEST_CASE("a new replica, and one that wants no deltas, read the version as a whole") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    trainer.step();
    const auto replica = cluster.node("replica");
    pull(*replica, trainer);
    trainer.step();
    auto options = of_m();
    options.deltas = false;
    CHECK(pull(*replica, trainer, options).delta_bytes == 0);
    const auto fresh = cluster.node("fresh");
    CHECK(pull(*fresh, trainer).delta_bytes == 0);
}

TEST_CASE("deltas that lead nowhere are not kept") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    const auto replica = cluster.node("replica");
    trainer.step();
    pull(*replica, trainer);
    trainer.step(1);  // No deltas to this one.
    trainer.step();
    const PullReport report = pull(*replica, trainer);
    CHECK(report.delta_bytes > 0);
    CHECK(report.bytes_patched == 0);
    auto api = registry::connect({.url = cluster.server->url()});
    REQUIRE_OK(api);
    const auto peers = api.value()->list_peers();
    REQUIRE_OK(peers);
    const auto self = std::ranges::find(peers.value(), "replica", &registry::PeerSummary::name);
    REQUIRE(self != peers.value().end());
    for (const auto& holding : self->holdings) CHECK(holding.model == "m");
}

TEST_CASE("when all changed there are no deltas") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    const auto replica = cluster.node("replica");
    trainer.step();
    pull(*replica, trainer);
    trainer.step(1);
    CHECK(pull(*replica, trainer).delta_bytes == 0);
}

TEST_CASE("weights that are followed are patched, in slots and in place") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    const auto replica = cluster.node("replica");
    std::atomic<std::uint64_t> patched{0};
    std::atomic<std::uint64_t> flips{0};
    WeightSetOptions options;
    options.pull = of_m();
    options.in_place = GENERATE(false, true);
    options.after_flip = [&](const Flip& flip) {
        patched = flip.report.bytes_patched;
        ++flips;
    };
    auto weights = replica->follow_memory(options);
    REQUIRE_OK(weights);
    for (std::uint64_t step = 1; step <= 5; ++step) {
        const Published published = trainer.step();
        REQUIRE(weights.value()->wait_for(step, kPatience));
        while (flips < step) std::this_thread::yield();
        CHECK(trainer.same(weights.value()->acquire().tensor("w")->bytes));
        if (step > 1) CHECK(patched > published.bytes / 2);
    }
}

TEST_CASE("a directory is patched from the one before") {
    Cluster cluster;
    SparseTrainer trainer(cluster);
    const auto replica = cluster.node("replica");
    const kit::Scratch scratch;
    auto options = of_m();
    for (const std::string name : {"one", "two"}) {
        trainer.step();
        options.directory = scratch.path(name);
        const auto report = replica->pull(options);
        REQUIRE_OK(report);
        CHECK((report.value().bytes_patched > 0) == (name == "two"));
        const std::string file = scratch.read(name + "/model.safetensors");
        const auto bytes = std::as_bytes(std::span(file.data(), file.size()));
        CHECK(trainer.same(bytes.last(40 * kChunk)));
    }
}

TEST_CASE("deltas that lie cost time and nothing else") {
    Cluster cluster;
    SparseTrainer trainer(cluster, false);
    const auto replica = cluster.node("replica");
    trainer.step();
    pull(*replica, trainer);
    const Published target = trainer.step();
    std::string lie = GENERATE(std::string("no set at all"), std::string(200, '\0'));
    const kit::Scratch scratch;
    scratch.write("deltas/from-1", lie);
    const std::vector<std::string> paths{scratch.path("deltas")};
    const auto liar = cluster.node("liar");
    REQUIRE_OK(liar->publish(
        paths,
        {.model = "m.deltas", .version = target.version, .channel = "", .chunk_bytes = kChunk}));
    const PullReport report = pull(*replica, trainer);
    CHECK(report.delta_bytes == lie.size());
    CHECK(report.bytes_patched == 0);
}

}  // namespace

namespace agent {
namespace {

TEST_CASE("a set of deltas names what it is for") {
    const delta::Root from{std::byte{1}};
    const delta::Root to{std::byte{2}};
    const std::string text = "bytes";
    const std::vector<delta::SetEntry> entries{{2, std::as_bytes(std::span(text))}, {9, {}}};
    const auto bytes = delta::encode_set({7, from, to}, entries);
    const auto set = delta::parse_set(bytes, 10);
    REQUIRE_OK(set);
    CHECK(set.value().header.from_version == 7);
    CHECK(set.value().header.from == from);
    CHECK(set.value().header.to == to);
    REQUIRE(delta::find(set.value(), 2) != nullptr);
    CHECK(delta::find(set.value(), 2)->encoded.size() == text.size());
    CHECK(delta::find(set.value(), 3) == nullptr);
    CHECK(delta::parse_set(bytes, 9).error().code == Code::invalid_input);
    CHECK(delta::parse_set(std::span(bytes).first(bytes.size() - 1), 10).has_error());
    model::Manifest manifest;
    manifest.artifacts.push_back({deltas_artifact(7), model::ArtifactKind::opaque, false, 1});
    CHECK(deltas_from(manifest) == 7U);
    manifest.artifacts[0].path = "from-7x";
    CHECK_FALSE(deltas_from(manifest));
}

}  // namespace
}  // namespace agent
}  // namespace weightcast
