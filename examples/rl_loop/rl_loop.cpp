// The weights' side of a reinforcement learning loop. The trainer changes a share of its weights in
// place, step after step, and publishes them where they lie. Replicas follow, and read their
// weights without pause; each read proves that it saw one version and nothing else.
//
//   rl_loop trainer REGISTRY BYTES SHARE rows|scattered [deltas]
//   rl_loop replica REGISTRY NAME two-slots|in-place
//
// Both print a JSON object a line. The trainer takes a step for each line that it reads from its
// standard input; both end when that ends. run.py starts them and measures.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "transport/open.h"
#include "weightcast/node.h"
#include "weightcast/tensor_source.h"
#include "weightcast/weight_set.h"

namespace {

using weightcast::Node;
using weightcast::Result;
using weightcast::TensorView;

constexpr const char* kModel = "policy";
constexpr const char* kProof = "proof";
constexpr std::size_t kTensors = 64;
constexpr std::size_t kBlockBytes = 16384;  // of weights that one word of the proof is about
constexpr auto kReadersWait = std::chrono::seconds(10);

// The same in all processes of a host.
std::int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

// That this thread has run.
std::int64_t thread_ns() {
    std::timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::uint64_t mix(std::uint64_t value) {
    value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27U)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31U);
}

// The first word of a block that was last changed in this step.
std::uint64_t stamp(std::size_t block, std::uint64_t step) { return mix(block << 24U ^ step); }

Result<std::unique_ptr<Node>> start(const std::string& registry, const std::string& name) {
    weightcast::NodeOptions options;
    options.registry = registry;
    options.name = name;
    options.fabrics_besides = {"shm", "verbs", "tcp"};
    options.open_fabrics = weightcast::transport::open_fabrics;
    return Node::start(options);
}

class Trainer {
  public:
    Trainer(std::size_t bytes, double share, bool scattered)
        : tensor_words_(bytes / kTensors / kBlockBytes * kBlockBytes / sizeof(std::uint16_t)),
          share_(share),
          scattered_(scattered),
          weights_(tensor_words_ * kTensors),
          proof_(weights_.size() * sizeof(std::uint16_t) / kBlockBytes) {
        for (std::uint16_t& weight : weights_) weight = static_cast<std::uint16_t>(random_());
        for (std::size_t block = 0; block < proof_.size(); ++block) mark(block);
    }

    std::vector<TensorView> tensors() const {
        std::vector<TensorView> views;
        for (std::size_t i = 0; i < kTensors; ++i) {
            const auto tensor = std::span(weights_).subspan(i * tensor_words_, tensor_words_);
            views.push_back({name_of(i), "BF16", {tensor_words_}, std::as_bytes(tensor)});
        }
        views.push_back({kProof, "U64", {proof_.size()}, std::as_bytes(std::span(proof_))});
        return views;
    }

    // Changes a share of the weights: of some rows, or here and there in all of them. Gives the
    // tensors that changed.
    std::vector<std::string> step() {
        ++step_;
        std::vector<char> touched(kTensors, 0);
        const auto touch = [&](std::size_t block) {
            mark(block);
            touched[block * kBlockWords / tensor_words_] = 1;
        };
        const auto blocks = proof_.size();
        if (scattered_) {
            const auto changes =
                static_cast<std::size_t>(share_ * static_cast<double>(weights_.size()));
            for (std::size_t i = 0; i < changes; ++i) change(random_() % weights_.size());
            for (std::size_t block = 0; block < blocks; ++block) touch(block);
        } else {
            const auto count = std::max<std::size_t>(
                1, static_cast<std::size_t>(share_ * static_cast<double>(blocks)));
            const std::size_t first = random_() % (blocks - count + 1);
            for (std::size_t block = first; block < first + count; ++block) {
                for (std::size_t i = 0; i < kBlockWords; ++i) change(block * kBlockWords + i);
                touch(block);
            }
        }
        std::vector<std::string> changed{kProof};
        for (std::size_t i = 0; i < kTensors; ++i) {
            if (touched[i] != 0) changed.push_back(name_of(i));
        }
        return changed;
    }

  private:
    static constexpr std::size_t kBlockWords = kBlockBytes / sizeof(std::uint16_t);

    static std::string name_of(std::size_t i) { return "layer." + std::to_string(i) + ".weight"; }
    // Another value, as a small optimizer step would leave.
    void change(std::size_t word) {
        weights_[word] ^= static_cast<std::uint16_t>(1U + (random_() & 3U));
    }
    void mark(std::size_t block) {
        const std::uint64_t value = stamp(block, step_);
        std::memcpy(&weights_[block * kBlockWords], &value, sizeof value);
        proof_[block] = value;
    }

    std::size_t tensor_words_;
    double share_;
    bool scattered_;
    std::vector<std::uint16_t> weights_;
    std::vector<std::uint64_t> proof_;
    std::uint64_t step_ = 0;
    std::minstd_rand random_{1};
};

Result<void> train(const std::string& registry, std::size_t bytes, double share, bool scattered,
                   bool deltas) {
    WEIGHTCAST_TRY(const auto node, start(registry, "trainer"));
    Trainer trainer(bytes, share, scattered);
    WEIGHTCAST_TRY(const auto source, node->open_source(trainer.tensors(), {.deltas = deltas}));
    std::puts(R"({"event":"ready"})");
    std::fflush(stdout);
    bool first = true;
    for (int letter = 0; (letter = std::getchar()) != EOF;) {
        if (letter != '\n') continue;
        const std::int64_t asked = now_ns();
        const bool unread = source->begin_update(kReadersWait);
        const std::int64_t stopped = now_ns();
        const std::vector<std::string> changed = trainer.step();
        weightcast::PublishOptions options;
        options.model = kModel;
        const std::int64_t publishing = now_ns();
        WEIGHTCAST_TRY(const auto published,
                       first ? source->publish(options) : source->publish(options, changed));
        first = false;
        std::printf("{\"event\":\"published\",\"generation\":%" PRIu64 ",\"bytes\":%" PRIu64
                    ",\"unread\":%s,\"wait_ns\":%" PRId64 ",\"start_ns\":%" PRId64
                    ",\"end_ns\":%" PRId64 "}\n",
                    published.generation, published.bytes, unread ? "true" : "false",
                    stopped - asked, publishing, now_ns());
        std::fflush(stdout);
    }
    return weightcast::success();
}

// The worst of what readers waited, and what they would have waited for nothing: a thread that is
// not scheduled waits, too.
struct Reads {
    std::uint64_t count = 0;
    std::uint64_t none = 0;  // no version was there
    std::uint64_t torn = 0;
    std::uint64_t backwards = 0;
    std::int64_t acquire_ns_max = 0;
    std::int64_t acquire_cpu_ns_max = 0;  // of the thread's own time
    std::int64_t control_ns_max = 0;
};

bool proves(const weightcast::Snapshot& snapshot) {
    const TensorView* const proof = snapshot.tensor(kProof);
    if (proof == nullptr) return false;
    std::size_t block = 0;
    for (const TensorView& tensor : snapshot.tensors()) {
        if (tensor.name == kProof) continue;
        // Tensors come by name, and the proof is in the order of their numbers.
        const auto number = std::stoul(tensor.name.substr(std::strlen("layer.")));
        block = number * (tensor.bytes.size() / kBlockBytes);
        for (std::size_t at = 0; at < tensor.bytes.size(); at += kBlockBytes, ++block) {
            const bool right = std::memcmp(tensor.bytes.data() + at,
                                           proof->bytes.data() + block * sizeof(std::uint64_t),
                                           sizeof(std::uint64_t)) == 0;
            if (!right) return false;
        }
    }
    return true;
}

Reads read_until(const weightcast::WeightSet& weights, const std::atomic<bool>& stop) {
    Reads reads;
    std::uint64_t last = 0;
    while (!stop) {
        // The system looks whether a thread's turn is over when it is asked for the thread's time,
        // so that is asked outside of what the clock measures.
        const std::int64_t cpu = thread_ns();
        const std::int64_t before = now_ns();
        const std::int64_t begun = now_ns();
        const weightcast::Snapshot snapshot = weights.acquire();
        const std::int64_t after = now_ns();
        reads.acquire_cpu_ns_max = std::max(reads.acquire_cpu_ns_max, thread_ns() - cpu);
        reads.control_ns_max = std::max(reads.control_ns_max, begun - before);
        reads.acquire_ns_max = std::max(reads.acquire_ns_max, after - begun);
        if (!snapshot) {
            ++reads.none;
            std::this_thread::yield();
            continue;
        }
        ++reads.count;
        if (!proves(snapshot)) ++reads.torn;
        if (snapshot.generation() < last) ++reads.backwards;
        last = snapshot.generation();
    }
    return reads;
}

Result<void> replicate(const std::string& registry, const std::string& name, bool in_place) {
    WEIGHTCAST_TRY(const auto node, start(registry, name));
    weightcast::WeightSetOptions options;
    options.pull.model = kModel;
    options.in_place = in_place;
    std::atomic<std::int64_t> paused{0};
    options.before_flip = [&](const weightcast::Flip&) {
        paused = now_ns();
        return weightcast::success();
    };
    options.after_flip = [&](const weightcast::Flip& flip) {
        const std::int64_t now = now_ns();
        std::printf("{\"event\":\"flip\",\"generation\":%" PRIu64 ",\"ns\":%" PRId64
                    ",\"flip_ns\":%" PRId64 ",\"bytes_read\":%" PRIu64 ",\"bytes_reused\":%" PRIu64
                    ",\"bytes_patched\":%" PRIu64 ",\"pull_seconds\":%.6f}\n",
                    flip.generation, now, now - paused, flip.report.bytes_read,
                    flip.report.bytes_reused, flip.report.bytes_patched, flip.report.seconds);
        std::fflush(stdout);
    };
    WEIGHTCAST_TRY(const auto weights, node->follow_memory(options));
    std::atomic<bool> stop{false};
    Reads reads;
    std::thread reader([&] { reads = read_until(*weights, stop); });
    std::puts(R"({"event":"ready"})");
    std::fflush(stdout);
    while (std::getchar() != EOF) continue;
    stop = true;
    reader.join();
    std::printf("{\"event\":\"done\",\"reads\":%" PRIu64 ",\"none\":%" PRIu64 ",\"torn\":%" PRIu64
                ",\"backwards\":%" PRIu64 ",\"acquire_ns_max\":%" PRId64
                ",\"acquire_cpu_ns_max\":%" PRId64 ",\"control_ns_max\":%" PRId64 "}\n",
                reads.count, reads.none, reads.torn, reads.backwards, reads.acquire_ns_max,
                reads.acquire_cpu_ns_max, reads.control_ns_max);
    return weightcast::success();
}

int usage() {
    std::fputs(
        "usage: rl_loop trainer REGISTRY BYTES SHARE rows|scattered [deltas]\n"
        "       rl_loop replica REGISTRY NAME two-slots|in-place\n",
        stderr);
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const auto is = [&](std::size_t i, std::string_view text) {
        return i < arguments.size() && arguments[i] == text;
    };
    Result<void> outcome = weightcast::success();
    if (is(0, "trainer") && (arguments.size() == 5 || is(5, "deltas")) &&
        (is(4, "rows") || is(4, "scattered"))) {
        const std::size_t bytes = std::strtoull(arguments[2].c_str(), nullptr, 10);
        const double share = std::strtod(arguments[3].c_str(), nullptr);
        if (bytes < kTensors * kBlockBytes || !(share > 0 && share <= 1)) return usage();
        outcome = train(arguments[1], bytes, share, is(4, "scattered"), is(5, "deltas"));
    } else if (is(0, "replica") && arguments.size() == 4 &&
               (is(3, "two-slots") || is(3, "in-place"))) {
        outcome = replicate(arguments[1], arguments[2], is(3, "in-place"));
    } else {
        return usage();
    }
    if (outcome) return 0;
    std::fprintf(stderr, "rl_loop: %s\n", outcome.error().message.c_str());
    return 1;
}
