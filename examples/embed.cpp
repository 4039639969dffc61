// A program with weightcast inside: one node publishes tensors from its memory, another one, in
// this process or in a second one, pulls them into its memory and uses them where they are.
//
// Against the installed library:
//   c++ embed.cpp $(pkg-config --cflags --libs weightcast) -o embed
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "transport/open.h"
#include "weightcast/node.h"

namespace {

using weightcast::Node;
using weightcast::Result;

constexpr const char* kModel = "example";
constexpr std::uint64_t kRows = 4096;

// Starts a node that reaches its peers by every transport that works here.
Result<std::unique_ptr<Node>> start(const std::string& registry) {
    weightcast::NodeOptions options;
    options.registry = registry;
    options.open_fabrics = weightcast::transport::open_fabrics;
    return Node::start(options);
}

// The weights are the caller's. They are served where they lie: they must stay as they are until
// the node is gone.
Result<void> publish(Node& node, const std::vector<float>& weights) {
    const auto bytes = std::as_bytes(std::span(weights));
    const std::vector<weightcast::TensorView> tensors{
        {"layer.weight", "F32", {kRows, kRows}, bytes},
        {"layer.bias", "F32", {kRows}, bytes.first(kRows * sizeof(float))}};
    weightcast::PublishOptions options;
    options.model = kModel;
    WEIGHTCAST_TRY(const auto published, node.publish(tensors, options));
    std::printf("%s serves %s@%llu, %llu bytes\n", node.name().c_str(), published.model.c_str(),
                static_cast<unsigned long long>(published.version),
                static_cast<unsigned long long>(published.bytes));
    return weightcast::success();
}

void print(const weightcast::PullReport& report) {
    std::printf("pulled %s@%llu: %llu bytes in %.3f s, %.2f times the lower bound (%s)\n",
                report.model.c_str(), static_cast<unsigned long long>(report.version),
                static_cast<unsigned long long>(report.bytes), report.seconds, report.ratio,
                report.limited_by.c_str());
    for (const weightcast::HolderShare& share : report.holders) {
        std::printf("  %llu bytes from %s over %s\n", static_cast<unsigned long long>(share.bytes),
                    share.peer.c_str(), share.fabric.c_str());
    }
}

Result<void> pull(Node& node) {
    weightcast::PullOptions options;
    options.model = kModel;
    // Nothing is read if the tensor is of another type or shape.
    options.expected = {{"layer.weight", "F32", {kRows, kRows}, {}}};
    options.on_progress = [](const weightcast::PullProgress& now) {
        std::printf("%llu of %llu bytes, from %u holders\n",
                    static_cast<unsigned long long>(now.bytes_done),
                    static_cast<unsigned long long>(now.bytes_total), now.holders);
    };
    // The node serves the copy in turn; the bytes live as long as `memory`.
    WEIGHTCAST_TRY(const auto memory, node.pull_memory(options));
    WEIGHTCAST_TRY(const auto weight, memory->tensor("layer.weight"));
    print(memory->report());
    float last = 0;
    std::memcpy(&last, weight.bytes.data() + weight.bytes.size() - sizeof last, sizeof last);
    std::printf("the last weight is %g\n", static_cast<double>(last));
    return weightcast::success();
}

Result<void> run(const std::string& registry, const std::string& part) {
    std::vector<float> weights;  // outlives the node that serves it
    std::unique_ptr<Node> publisher;
    if (part != "pull") {
        weights.resize(kRows * kRows);
        for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 1000);
        WEIGHTCAST_TRY(publisher, start(registry));
        WEIGHTCAST_CHECK(publish(*publisher, weights));
    }
    if (part == "publish") {
        std::puts("serving until the end of standard input");
        while (std::getchar() != EOF) continue;
        return weightcast::success();
    }
    WEIGHTCAST_TRY(const auto reader, start(registry));
    return pull(*reader);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string part = argc == 3 ? argv[2] : "";
    if (argc < 2 || argc > 3 || (argc == 3 && part != "publish" && part != "pull")) {
        std::fputs(
            "usage: embed REGISTRY_URL [publish|pull]\n"
            "Does both in one process unless told which. A registry runs with:  p2p-meta\n",
            stderr);
        return 2;
    }
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    const Result<void> result = run(argv[1], part);
    if (result) return 0;
    std::fprintf(stderr, "embed: %s\n", result.error().message.c_str());
    return 1;
}
