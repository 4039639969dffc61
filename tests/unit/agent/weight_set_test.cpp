// Goal: readers of weights that follow a channel only ever see whole versions, each step of the way
// costs what changed, and a failure leaves a stated version. Method: versions whose every tensor
// tells the version it is of, read without pause by threads while they change.
#include "weightcast/weight_set.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "registry/client.h"
#include "tests/unit/agent/cluster.h"

namespace weightcast {
namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = std::chrono::milliseconds(30000);
constexpr std::size_t kTensors = 8;
constexpr std::size_t kWords = 3 * kChunk / sizeof(std::uint64_t);  // of a tensor

// A trainer's memory: tensor i is full of words that name it and the step that last changed it.
class Trainer {
  public:
    explicit Trainer(Cluster& cluster) : node_(cluster.node("trainer")) {}
    ~Trainer() { node_.reset(); }

    // Publishes the next version: tensors below `changed` are of this step.
    Published step(std::size_t changed) {
        ++step_;
        for (std::size_t i = 0; i < changed; ++i) steps_[i] = step_;
        std::vector<std::uint64_t>& memory = versions_[step_];
        std::vector<TensorView> views;
        memory.resize(kTensors * kWords);
        for (std::size_t i = 0; i < kTensors; ++i) {
            std::fill_n(memory.begin() + static_cast<std::ptrdiff_t>(i * kWords), kWords,
                        steps_[i] * kTensors + i);
            views.push_back({std::to_string(i),
                             "U64",
                             {kWords},
                             std::as_bytes(std::span(memory)).subspan(i * kWords * 8, kWords * 8)});
        }
        proof_[step_] = steps_;
        auto published = node_->publish(views, {.model = "m", .chunk_bytes = kChunk});
        REQUIRE_OK(published);
        return published.value();
    }
    Node& node() { return *node_; }

    // Whether a snapshot is this version and nothing else.
    bool proves(const Snapshot& snapshot) const {
        const auto& steps = proof_.at(snapshot.version());
        for (std::size_t i = 0; i < kTensors; ++i) {
            const TensorView* const tensor = snapshot.tensor(std::to_string(i));
            if (tensor == nullptr || tensor->bytes.size() != kWords * 8) return false;
            for (std::size_t word : {std::size_t{0}, kWords / 2, kWords - 1}) {
                std::uint64_t value = 0;
                std::memcpy(&value, tensor->bytes.data() + word * 8, 8);
                if (value != steps[i] * kTensors + i) return false;
            }
        }
        return true;
    }

  private:
    std::map<std::uint64_t, std::vector<std::uint64_t>> versions_;  // their memory
    std::map<std::uint64_t, std::array<std::uint64_t, kTensors>> proof_;
    std::array<std::uint64_t, kTensors> steps_{};
    std::uint64_t step_ = 0;
    std::unique_ptr<Node> node_;
};

struct Hooks {
    std::atomic<int> before{0};
    std::atomic<int> after{0};
    std::atomic<int> troubles{0};
    std::atomic<std::uint64_t> bytes_read{0};  // of the last flip
    std::atomic<std::uint64_t> bytes_reused{0};
    std::atomic<bool> refuse{false};

    WeightSetOptions options() {
        WeightSetOptions options;
        options.pull = of_m();
        options.before_flip = [this](const Flip&) -> Result<void> {
            ++before;
            if (refuse) return Error{Code::unavailable, 0, "not now"};
            return success();
        };
        options.after_flip = [this](const Flip& flip) {
            bytes_read = flip.report.bytes_read;
            bytes_reused = flip.report.bytes_reused;
            ++after;
        };
        options.on_trouble = [this](const Error&) {
            ++troubles;
            refuse = false;
        };
        return options;
    }
};

std::unique_ptr<WeightSet> follow(Node& node, const WeightSetOptions& options) {
    auto weights = node.follow_memory(options);
    REQUIRE_OK(weights);
    return std::move(weights).value();
}

TEST_CASE("the last copy of what another channel names is not overwritten") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    Hooks hooks;
    trainer.step(kTensors);
    auto api = registry::connect({.url = cluster.server->url()});
    REQUIRE_OK(api);
    registry::SetChannelRequest kept;
    kept.model = "m";
    kept.channel = "prod";
    kept.version = 1;
    REQUIRE_OK(api.value()->set_channel(kept));
    const auto weights = follow(*replica, hooks.options());
    REQUIRE(weights->wait_for(1, kPatience));
    trainer.step(1);
    REQUIRE(weights->wait_for(2, kPatience));
    REQUIRE_OK(trainer.node().withdraw("m", 1));
    trainer.step(1);
    while (hooks.troubles == 0) std::this_thread::yield();
    CHECK(weights->acquire().version() == 2);
    // Nobody wants it any more.
    kept.version = 2;
    REQUIRE_OK(api.value()->set_channel(kept));
    REQUIRE(weights->wait_for(3, kPatience));
    CHECK(trainer.proves(weights->acquire()));
}

TEST_CASE("weights follow a channel, and each step reads what changed") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    Hooks hooks;
    auto options = hooks.options();
    options.in_place = GENERATE(false, true);
    const auto weights = follow(*replica, options);
    CHECK_FALSE(weights->acquire());
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(1, kPatience));
    CHECK(trainer.proves(weights->acquire()));
    for (std::uint64_t step = 2; step <= 5; ++step) {
        const std::uint64_t bytes = trainer.step(2).bytes;
        REQUIRE(weights->wait_for(step, kPatience));
        const Snapshot snapshot = weights->acquire();
        REQUIRE(snapshot);
        CHECK(snapshot.version() == step);
        CHECK(snapshot.generation() == step);
        CHECK(snapshot.tensors().size() == kTensors);
        CHECK(snapshot.tensor("none") == nullptr);
        CHECK(trainer.proves(snapshot));
        while (hooks.after != static_cast<int>(step)) std::this_thread::yield();
        CHECK(hooks.bytes_read + hooks.bytes_reused == bytes);
        // Two tensors of three chunks, and one chunk more at each end.
        CHECK(hooks.bytes_read <= 8 * kChunk);
    }
    CHECK(hooks.before == 5);
    CHECK(hooks.troubles == 0);
}

TEST_CASE("readers never see a torn version while it changes under them") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    Hooks hooks;
    auto options = hooks.options();
    options.in_place = GENERATE(false, true);
    const auto weights = follow(*replica, options);
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(1, kPatience));
    constexpr std::uint64_t kSteps = 12;
    for (std::uint64_t step = 2; step <= kSteps; ++step) trainer.step(1 + step % kTensors);
    std::atomic<std::uint64_t> torn{0};
    std::atomic<std::uint64_t> backwards{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 2; ++i) {
        readers.emplace_back([&] {
            for (std::uint64_t last = 0; last < kSteps;) {
                const Snapshot snapshot = weights->acquire();
                if (!snapshot) continue;
                if (!trainer.proves(snapshot)) ++torn;
                if (snapshot.generation() < last) ++backwards;
                last = snapshot.generation();
            }
        });
    }
    CHECK(weights->wait_for(kSteps, kPatience));
    for (std::thread& reader : readers) reader.join();
    CHECK(torn == 0);
    CHECK(backwards == 0);
}

TEST_CASE("a snapshot keeps its version while newer ones come") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    Hooks hooks;
    const auto weights = follow(*replica, hooks.options());
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(1, kPatience));
    Snapshot first = weights->acquire();
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(2, kPatience));
    trainer.step(kTensors);  // Would overwrite the first.
    CHECK_FALSE(weights->wait_for(3, 200ms));
    CHECK(first.version() == 1);
    CHECK(trainer.proves(first));
    CHECK(weights->acquire().version() == 2);
    first = Snapshot();
    CHECK(weights->wait_for(3, kPatience));
    CHECK(trainer.proves(weights->acquire()));
}

TEST_CASE("a flip waits for its hook, and one that is refused is tried again") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    Hooks hooks;
    hooks.refuse = true;
    const auto weights = follow(*replica, hooks.options());
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(1, kPatience));
    CHECK(hooks.troubles == 1);
    CHECK(hooks.before == 2);
    CHECK(trainer.proves(weights->acquire()));
}

TEST_CASE("a version that nobody has any more leaves the one before, or none in place") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    const bool in_place = GENERATE(false, true);
    Hooks hooks;
    auto options = hooks.options();
    options.in_place = in_place;
    options.pull.no_holder_ms_max = 100;
    const auto weights = follow(*replica, options);
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(1, kPatience));
    cluster.faults("trainer", {.loss = 1});
    trainer.step(1);
    while (hooks.troubles == 0) std::this_thread::yield();
    const Snapshot snapshot = weights->acquire();
    CHECK(static_cast<bool>(snapshot) == !in_place);
    if (snapshot) CHECK(snapshot.version() == 1);
}

TEST_CASE("a rollback is a flip to an older version with a higher generation") {
    Cluster cluster;
    Trainer trainer(cluster);
    const auto replica = cluster.node("replica");
    Hooks hooks;
    const auto weights = follow(*replica, hooks.options());
    trainer.step(kTensors);
    REQUIRE(weights->wait_for(1, kPatience));
    trainer.step(3);
    REQUIRE(weights->wait_for(2, kPatience));
    auto api = registry::connect({.url = cluster.server->url()});
    REQUIRE_OK(api);
    REQUIRE_OK(api.value()->set_channel({"m", "stable", 1, 2, "test", "bad"}));
    REQUIRE(weights->wait_for(3, kPatience));
    const Snapshot snapshot = weights->acquire();
    CHECK(snapshot.version() == 1);
    CHECK(trainer.proves(snapshot));
    while (hooks.after != 3) std::this_thread::yield();
    CHECK(hooks.bytes_read == 0);  // The slot still had it.
}

}  // namespace
}  // namespace weightcast
