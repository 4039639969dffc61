// Measures a whole pull through the public API: one process publishes from memory or from files,
// with a registry of its own, another one pulls into memory or into a directory.
#include <fmt/core.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/random.h"
#include "perf/transfer/options.h"
#include "registry/server.h"
#include "tests/kit/child.h"
#include "transport/open.h"
#include "weightcast/node.h"

namespace weightcast::perf {
namespace {

constexpr std::string_view kUsage =
    "usage: pull-bench [--bytes N] [--chunk N] [--fabric NAME] [--from PATH] [--to DIR] "
    "[--times N]\n"
    "       [--device NAME] [--holder-device NAME]\n"
    "       from memory, N bytes of it, if no --from; into memory, if no --to\n";
constexpr const char* kModel = "pull-bench";
constexpr std::uint64_t kTensors = 16;

struct Options {
    std::uint64_t bytes = 1ULL << 30U;
    std::uint64_t chunk_bytes = 1ULL << 20U;
    std::uint64_t times = 1;
    std::string fabric;  // empty: the best
    std::string from;
    std::string to;
    std::string device;         // verbs: of the puller
    std::string holder_device;  // verbs
};

Result<Options> parse(std::span<char* const> arguments) {
    Options options;
    const std::array known{
        Option{"--bytes", &options.bytes},
        Option{"--chunk", &options.chunk_bytes},
        Option{"--times", &options.times},
        Option{"--fabric", nullptr, &options.fabric},
        Option{"--from", nullptr, &options.from},
        Option{"--to", nullptr, &options.to},
        Option{"--device", nullptr, &options.device},
        Option{"--holder-device", nullptr, &options.holder_device},
    };
    WEIGHTCAST_CHECK(parse_options(arguments.subspan(1), known));
    if (options.bytes < kTensors * sizeof(std::uint64_t)) {
        return Error{Code::invalid_input, 0, "too few bytes"};
    }
    return options;
}

// Random bytes in the memory of this process, in a few tensors.
struct Weights {
    SharedMemory memory;
    std::vector<TensorView> tensors;

    static Result<Weights> create(std::uint64_t bytes) {
        Weights weights;
        const std::uint64_t each = bytes / kTensors / sizeof(std::uint64_t) * sizeof(std::uint64_t);
        WEIGHTCAST_TRY(weights.memory, SharedMemory::create("pull-bench", each * kTensors));
        const auto pages = weights.memory.pages.span();
        Random random(random_seed());
        for (std::size_t at = 0; at < pages.size(); at += sizeof(std::uint64_t)) {
            const std::uint64_t value = random.next();
            std::memcpy(pages.data() + at, &value, sizeof value);
        }
        for (std::uint64_t i = 0; i < kTensors; ++i) {
            weights.tensors.push_back(
                {fmt::format("tensor.{}", i), "U8", {each}, pages.subspan(i * each, each)});
        }
        return weights;
    }
};

Result<std::unique_ptr<Node>> start_node(const Options& options, const std::string& registry,
                                         const std::string& device) {
    NodeOptions node;
    node.registry = registry;
    node.open_fabrics = transport::open_fabrics;
    if (!options.fabric.empty()) node.fabrics = {options.fabric};
    if (!device.empty()) node.devices = {device};
    return Node::start(node);
}

Result<Published> publish(Node& node, const Options& options, const Weights& weights) {
    PublishOptions published;
    published.model = kModel;
    published.chunk_bytes = options.chunk_bytes;
    if (!options.from.empty()) return node.publish(std::array{options.from}, published);
    return node.publish(weights.tensors, published);
}

Result<void> serve(kit::Channel& channel, const Options& options) {
    registry::ServerOptions listen;
    listen.listen = "127.0.0.1:0";
    WEIGHTCAST_TRY(const auto server, registry::Server::start(listen));
    Weights weights;
    if (options.from.empty()) {
        WEIGHTCAST_TRY(weights, Weights::create(options.bytes));
    }
    WEIGHTCAST_TRY(const auto node, start_node(options, server->url(), options.holder_device));
    const TimePoint begin = system_clock().now();
    WEIGHTCAST_TRY(const auto published, publish(*node, options, weights));
    fmt::print("{{\"event\":\"published\",\"bytes\":{},\"seconds\":{:.4f}}}\n", published.bytes,
               seconds(system_clock().now() - begin));
    std::fflush(stdout);
    channel.send(server->url());
    channel.receive();
    return success();
}

// In the child: serves until the parent is gone.
int hold(kit::Channel& channel, const Options& options) {
    const auto result = serve(channel, options);
    if (result) return 0;
    fmt::print(stderr, "pull-bench: {}\n", result.error().message);
    return 1;
}

void print(const Options& options, const PullReport& report, double elapsed_s) {
    const std::string fabric = report.holders.empty() ? "" : report.holders.front().fabric;
    fmt::print(
        "{{\"event\":\"pulled\",\"from\":\"{}\",\"to\":\"{}\",\"fabric\":\"{}\",\"bytes\":{},"
        "\"seconds\":{:.4f},\"gbytes_per_s\":{:.3f}}}\n",
        options.from.empty() ? "memory" : "files", options.to.empty() ? "memory" : "files", fabric,
        report.bytes, elapsed_s, static_cast<double>(report.bytes) / elapsed_s / 1e9);
}

Result<void> pull(const Options& options, const std::string& registry, std::uint64_t time) {
    WEIGHTCAST_TRY(const auto node, start_node(options, registry, options.device));
    PullOptions wanted;
    wanted.model = kModel;
    wanted.serve = false;
    const TimePoint begin = system_clock().now();
    if (options.to.empty()) {
        WEIGHTCAST_TRY(const auto memory, node->pull_memory(wanted));
        print(options, memory->report(), seconds(system_clock().now() - begin));
        return success();
    }
    wanted.directory = fmt::format("{}/{}", options.to, time);
    WEIGHTCAST_TRY(const auto report, node->pull(wanted));
    print(options, report, seconds(system_clock().now() - begin));
    return success();
}

Result<void> run(const Options& options) {
    kit::Child holder([&](kit::Channel& channel) { return hold(channel, options); });
    const auto registry = holder.channel().receive();
    if (!registry) return Error{Code::unavailable, 0, "the publisher did not start"};
    for (std::uint64_t time = 0; time < options.times; ++time) {
        WEIGHTCAST_CHECK(pull(options, *registry, time));
    }
    return success();
}

}  // namespace
}  // namespace weightcast::perf

int main(int argc, char** argv) {
    const auto options = weightcast::perf::parse({argv, static_cast<std::size_t>(argc)});
    if (!options) {
        fmt::print(stderr, "pull-bench: {}\n{}", options.error().message, weightcast::perf::kUsage);
        return 2;
    }
    const auto result = weightcast::perf::run(options.value());
    if (result) return 0;
    fmt::print(stderr, "pull-bench: {}\n", result.error().message);
    return 1;
}
