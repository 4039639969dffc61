// delta-bench: how fast the difference of two versions of a chunk of bf16 weights is made and
// applied, as a ratio to memcpy() of the same bytes in the same run, and how many bytes it has.
// Prints a table: medians of all runs, least and greatest in brackets. One thread. The chunks
// of a row have 64 MiB together, so that none is in a small cache when its turn comes.
//
// `weights`: normally distributed, changed ones are drawn anew. `noise`: any bits, which zstd
// cannot make smaller.
//
// delta-bench [RUNS]
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/assert.h"
#include "base/random.h"
#include "delta/delta.h"

namespace {

using namespace weightcast;
using namespace weightcast::delta;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kAllBytes = 64 * kMiB;

using Weights = std::vector<std::uint16_t>;
using Draw = std::uint16_t (*)(Random&);

std::uint16_t draw_noise(Random& random) { return static_cast<std::uint16_t>(random.next()); }

// The sum of four uniform numbers is near enough to a normal one.
std::uint16_t draw_weight(Random& random) {
    const std::uint64_t bits = random.next();
    std::int64_t sum = -2 * 65535;
    for (unsigned i = 0; i < 64; i += 16) sum += static_cast<std::int64_t>(bits >> i & 0xffffU);
    const auto value = static_cast<float>(sum) * 5e-7F;
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U);
}

Weights draw_all(Draw draw, Random& random) {
    Weights weights(kAllBytes / sizeof(std::uint16_t));
    for (std::uint16_t& weight : weights) weight = draw(random);
    return weights;
}

void change(Weights& weights, double share, Draw draw, Random& random) {
    for (std::uint16_t& weight : weights) {
        if (random.unit() >= share) continue;
        const std::uint16_t old = weight;
        while (weight == old) weight = draw(random);
    }
}

double seconds_of(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Calls work(chunk) for each chunk's first byte.
template <typename Work>
double seconds_of_chunks(std::size_t chunk_bytes, const Work& work) {
    return seconds_of([&] {
        for (std::size_t at = 0; at < kAllBytes; at += chunk_bytes) work(at);
    });
}

std::string spread(std::vector<double> values) {
    if (values.empty()) return "";
    std::sort(values.begin(), values.end());
    return fmt::format("{:.2f} ({:.2f} to {:.2f})", values[values.size() / 2], values.front(),
                       values.back());
}

struct Row {
    const char* kind = "";
    double share = 0;
    std::size_t chunk_bytes = 0;
    std::uint32_t runs = 0;
};

void bench(const Row& row, const Weights& before, const Weights& after, Weights& chunks) {
    const auto bytes = [&](auto& weights, std::size_t at) {
        return std::as_bytes(std::span(weights)).subspan(at, row.chunk_bytes);
    };
    const auto writable = [&](std::size_t at) {
        return std::as_writable_bytes(std::span(chunks)).subspan(at, row.chunk_bytes);
    };
    const Options options;
    std::vector<Difference> differences(kAllBytes / row.chunk_bytes);
    std::vector<double> copy_rates;
    std::vector<double> diffs;
    std::vector<double> applies;
    for (std::uint32_t run = 0; run < row.runs; ++run) {
        const double copy = seconds_of_chunks(row.chunk_bytes, [&](std::size_t at) {
            std::memcpy(writable(at).data(), bytes(before, at).data(), row.chunk_bytes);
        });
        copy_rates.push_back(static_cast<double>(kAllBytes) / copy / 1e9);
        diffs.push_back(copy / seconds_of_chunks(row.chunk_bytes, [&](std::size_t at) {
                            differences[at / row.chunk_bytes] =
                                diff(bytes(before, at), bytes(after, at), options);
                        }));
        if (differences[0].form != Form::sparse) continue;
        applies.push_back(copy / seconds_of_chunks(row.chunk_bytes, [&](std::size_t at) {
                              const auto& encoded = differences[at / row.chunk_bytes].bytes;
                              WEIGHTCAST_ASSERT(delta::apply(encoded, writable(at)).has_value());
                          }));
        WEIGHTCAST_ASSERT(chunks == after);
    }
    std::size_t encoded = 0;
    for (const Difference& difference : differences) encoded += difference.bytes.size();
    const bool full = differences[0].form == Form::full;
    fmt::print("| {} | {} | {:.1f} % | {} | {} | {} | {} |\n", row.kind, row.chunk_bytes / kMiB,
               row.share * 100, spread(copy_rates), spread(diffs), spread(applies),
               full ? "full"
                    : fmt::format("{:.2f} %", 100 * static_cast<double>(encoded) /
                                                  static_cast<double>(kAllBytes)));
}

}  // namespace

int main(int argc, char** argv) {
    const int asked = argc > 1 ? std::atoi(argv[1]) : 9;
    const auto runs = static_cast<std::uint32_t>(std::clamp(asked, 1, 1000));
    fmt::print(
        "| values | chunk MiB | changed | memcpy GB/s | diff / memcpy | apply / memcpy | encoded "
        "|\n|---|---|---|---|---|---|---|\n");
    for (const auto& [kind, draw] : {std::pair{"weights", &draw_weight}, {"noise", &draw_noise}}) {
        Random random(1);
        const Weights before = draw_all(draw, random);
        Weights chunks = before;
        for (const double share : {0.0, 0.001, 0.01, 0.1, 1.0}) {
            Weights after = before;
            change(after, share, draw, random);
            for (const std::size_t chunk_bytes : {kMiB, 4 * kMiB, 16 * kMiB}) {
                bench({kind, share, chunk_bytes, runs}, before, after, chunks);
            }
        }
    }
    return 0;
}
