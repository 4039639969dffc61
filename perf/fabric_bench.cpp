// Measures how fast one process reads the memory of another through a fabric.
#include <fmt/core.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/random.h"
#include "fabric/fabric.h"
#include "tests/kit/child.h"
#include "transport/open.h"

namespace weightcast {
namespace {

constexpr std::string_view kUsage =
    "usage: fabric-bench FABRIC|memcpy-warm TOTAL_BYTES CHUNK_BYTES WINDOW [CONGESTION_CONTROL "
    "[CONNECTIONS [SOURCE_BYTES]]]\n";

struct Options {
    std::string fabric;
    std::uint64_t total_bytes = 0;
    std::uint64_t chunk_bytes = 0;
    std::uint64_t window = 0;
    std::string congestion_control;
    std::uint64_t connections = 1;
    std::uint64_t source_bytes = 256U << 20U;  // of the region that is read round and round
};

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t max) {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value == 0 ||
        value > max) {
        return Error{Code::invalid_input, 0, fmt::format("'{}' is not 1 to {}", text, max)};
    }
    return value;
}

Result<Options> parse(std::span<char*> arguments) {
    if (arguments.size() < 5 || arguments.size() > 8) {
        return Error{Code::invalid_input, 0, "wrong number of arguments"};
    }
    constexpr std::uint64_t kBytesMax = 1ULL << 44U;
    Options options;
    options.fabric = arguments[1];
    WEIGHTCAST_TRY(options.total_bytes, parse_number(arguments[2], kBytesMax));
    WEIGHTCAST_TRY(options.chunk_bytes, parse_number(arguments[3], 1ULL << 32U));
    WEIGHTCAST_TRY(options.window, parse_number(arguments[4], 4096));
    if (arguments.size() > 5) options.congestion_control = arguments[5];
    if (arguments.size() > 6) {
        WEIGHTCAST_TRY(options.connections, parse_number(arguments[6], 64));
    }
    if (arguments.size() > 7) {
        WEIGHTCAST_TRY(options.source_bytes, parse_number(arguments[7], kBytesMax));
    }
    options.source_bytes -= options.source_bytes % options.chunk_bytes;
    options.source_bytes = std::max(options.source_bytes, options.chunk_bytes);
    return options;
}

Result<std::unique_ptr<fabric::Fabric>> open_fabric(const Options& options,
                                                    const fabric::Incarnation& incarnation) {
    fabric::FabricOptions fabric;
    fabric.incarnation = incarnation;
    fabric.congestion_control = options.congestion_control;
    fabric.connections_per_link = static_cast<std::uint32_t>(options.connections);
    if (options.fabric == "tcp") return transport::open_tcp(fabric);
    return Error{Code::not_found, 0, fmt::format("no fabric '{}'", options.fabric)};
}

Result<SharedMemory> warm_memory(std::uint64_t bytes, int value) {
    WEIGHTCAST_TRY(auto memory,
                   SharedMemory::create("fabric-bench", static_cast<std::size_t>(bytes)));
    std::memset(memory.pages.data(), value, memory.pages.size());
    return memory;
}

fabric::Memory describe(const SharedMemory& memory) {
    fabric::Memory described;
    described.bytes = memory.pages.span();
    described.fd = memory.fd.get();
    return described;
}

// In the child: serves one region until the parent is gone.
int hold(kit::Channel& channel, const Options& options, const fabric::Incarnation& incarnation) {
    auto memory = warm_memory(options.source_bytes, 1);
    auto fabric = open_fabric(options, incarnation);
    if (!memory || !fabric) return 1;
    auto region =
        fabric.value()->register_memory(describe(memory.value()), fabric::Access::remote_read);
    if (!region) return 1;
    const auto key = region.value()->key();
    channel.send(fabric.value()->address());
    channel.send({reinterpret_cast<const char*>(key.data()), key.size()});
    channel.receive();
    return 0;
}

class Reader {
  public:
    Reader(const Options& options, fabric::Fabric& fabric, fabric::Region& local,
           fabric::LinkId link, fabric::RegionKey key)
        : options_(options), fabric_(fabric), local_(local), link_(link), key_(std::move(key)) {}

    // Reads `bytes` in all, a window of chunks at a time.
    Result<void> read(std::uint64_t bytes) {
        const std::uint64_t chunks = bytes / options_.chunk_bytes;
        std::uint64_t started = 0;
        std::uint64_t completed = 0;
        std::array<fabric::Completion, 64> done;
        for (; started < std::min(options_.window, chunks); ++started) start(started, started);
        while (completed < chunks) {
            const std::size_t count = fabric_.poll(done);
            for (std::size_t i = 0; i < count; ++i) {
                if (done[i].status != fabric::ReadStatus::ok) {
                    return Error{Code::unavailable, 0, fabric_.link_error(link_)};
                }
                if (started < chunks) start(started++, done[i].tag.value);
            }
            completed += count;
            if (count > 0 || fabric_.wait_fd() < 0) continue;
            ::pollfd waiting{fabric_.wait_fd(), POLLIN, 0};
            ::poll(&waiting, 1, fabric_.wait_ms());
        }
        return success();
    }

  private:
    void start(std::uint64_t chunk, std::uint64_t slot) {
        const std::uint64_t offset = chunk * options_.chunk_bytes % options_.source_bytes;
        const fabric::Read read{
            link_, key_, offset, &local_, offset, options_.chunk_bytes, fabric::ReadTag(slot)};
        fabric_.submit({&read, 1});
    }

    const Options& options_;
    fabric::Fabric& fabric_;
    fabric::Region& local_;
    fabric::LinkId link_;
    fabric::RegionKey key_;
};

void print(const Options& options, double elapsed_s) {
    const std::uint64_t chunks = options.total_bytes / options.chunk_bytes;
    const double bytes = static_cast<double>(chunks * options.chunk_bytes);
    fmt::print(
        "{{\"fabric\":\"{}\",\"total_bytes\":{},\"chunk_bytes\":{},\"window\":{},"
        "\"congestion_control\":\"{}\",\"connections\":{},\"seconds\":{:.4f},"
        "\"gbytes_per_s\":{:.3f}}}\n",
        options.fabric, options.total_bytes, options.chunk_bytes, options.window,
        options.congestion_control, options.connections, elapsed_s, bytes / elapsed_s / 1e9);
}

Result<void> run_memcpy(const Options& options) {
    WEIGHTCAST_TRY(const auto source, warm_memory(options.source_bytes, 1));
    WEIGHTCAST_TRY(const auto target, warm_memory(options.source_bytes, 2));
    const TimePoint begin = system_clock().now();
    for (std::uint64_t chunk = 0; chunk < options.total_bytes / options.chunk_bytes; ++chunk) {
        const std::uint64_t offset = chunk * options.chunk_bytes % options.source_bytes;
        std::memcpy(target.pages.data() + offset, source.pages.data() + offset,
                    static_cast<std::size_t>(options.chunk_bytes));
    }
    print(options, seconds(system_clock().now() - begin));
    return success();
}

Result<void> run(const Options& options) {
    if (options.fabric == "memcpy-warm") return run_memcpy(options);
    const fabric::Incarnation incarnation = random_identity();
    kit::Child holder([&](kit::Channel& channel) { return hold(channel, options, incarnation); });
    const auto address = holder.channel().receive();
    const auto key_text = holder.channel().receive();
    if (!address || !key_text) return Error{Code::unavailable, 0, "the holder did not start"};
    fabric::RegionKey key(key_text->size());
    std::memcpy(key.data(), key_text->data(), key.size());
    WEIGHTCAST_TRY(const auto fabric, open_fabric(options, random_identity()));
    WEIGHTCAST_TRY(const auto memory, warm_memory(options.source_bytes, 2));
    WEIGHTCAST_TRY(const auto local,
                   fabric->register_memory(describe(memory), fabric::Access::local));
    const fabric::LinkId link = fabric->connect({*address, incarnation});
    Reader reader(options, *fabric, *local, link, key);
    // The first round warms the connection up.
    WEIGHTCAST_CHECK(reader.read(std::min(options.total_bytes, options.source_bytes)));
    const TimePoint begin = system_clock().now();
    WEIGHTCAST_CHECK(reader.read(options.total_bytes));
    print(options, seconds(system_clock().now() - begin));
    return success();
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    const auto options = weightcast::parse({argv, static_cast<std::size_t>(argc)});
    if (!options) {
        fmt::print(stderr, "fabric-bench: {}\n{}", options.error().message, weightcast::kUsage);
        return 2;
    }
    const auto result = weightcast::run(options.value());
    if (result) return 0;
    fmt::print(stderr, "fabric-bench: {}\n", result.error().message);
    return 1;
}
