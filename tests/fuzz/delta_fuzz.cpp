// Goal: no bytes that claim to be a difference write outside the chunk, or anything if they are
// refused; and what is applied twice is as if applied once. Method: the input is applied to a chunk
// of the size that it states; then its two halves are taken for versions of a chunk, whose
// difference must turn one into the other.
#include <algorithm>
#include <cstring>
#include <span>

#include "base/assert.h"
#include "base/random.h"
#include "delta/delta.h"
#include "tests/kit/fuzz.h"

namespace weightcast::delta {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::size_t kGuardBytes = 4096 * 8;  // the largest block
constexpr std::size_t kChunkBytesTried = 1 << 18;

void check_apply(std::span<const std::byte> encoded) {
    std::uint32_t chunk_bytes = 0;
    constexpr std::size_t kChunkBytesAt = 8;
    if (encoded.size() < kChunkBytesAt + sizeof chunk_bytes) return;
    std::memcpy(&chunk_bytes, encoded.data() + kChunkBytesAt, sizeof chunk_bytes);
    if (chunk_bytes > kChunkBytesTried) chunk_bytes = 4096;
    const Bytes untouched(kGuardBytes + chunk_bytes + kGuardBytes, std::byte{0xAB});
    Bytes memory = untouched;
    const auto chunk = std::span(memory).subspan(kGuardBytes, chunk_bytes);
    if (!delta::apply(encoded, chunk)) {
        WEIGHTCAST_ASSERT(memory == untouched);
        return;
    }
    const auto guard = std::span(untouched).first(kGuardBytes);
    WEIGHTCAST_ASSERT(std::ranges::equal(std::span(memory).first(kGuardBytes), guard));
    WEIGHTCAST_ASSERT(std::ranges::equal(std::span(memory).last(kGuardBytes), guard));
    const Bytes once = memory;
    WEIGHTCAST_ASSERT(delta::apply(encoded, chunk).has_value());
    WEIGHTCAST_ASSERT(memory == once);
}

void check_diff(std::span<const std::byte> input) {
    const auto before = input.first(input.size() / 2);
    const auto after = input.subspan(before.size(), before.size());
    const std::size_t element_bytes = std::size_t{1} << input.size() % 4;
    const Options options{.element_bytes = element_bytes, .full_ratio = 3};
    const Difference difference = diff(before, after, options);
    WEIGHTCAST_ASSERT((difference.form == Form::same) == std::ranges::equal(before, after));
    if (difference.form != Form::sparse) return;
    Bytes chunk(before.begin(), before.end());
    WEIGHTCAST_ASSERT(delta::apply(difference.bytes, chunk).has_value());
    WEIGHTCAST_ASSERT(std::ranges::equal(chunk, after));
}

std::string text_of(const Bytes& bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace
}  // namespace weightcast::delta

std::vector<std::string> fuzz_seeds() {
    using namespace weightcast::delta;
    weightcast::Random random(1);
    std::vector<std::string> seeds;
    for (const std::size_t element_bytes : {1UL, 2UL}) {
        for (const bool compress : {false, true}) {
            // Three blocks: gaps, a bitmap, and all changed; and a tail.
            const std::size_t block_bytes = 4096 * element_bytes;
            const Bytes before(2 * block_bytes + 100 * element_bytes + element_bytes / 2);
            Bytes after = before;
            for (std::size_t i = 0; i < after.size(); ++i) {
                const std::size_t one_in = i < block_bytes ? 200 : i < 2 * block_bytes ? 3 : 1;
                if (random.below(one_in) == 0) after[i] = std::byte{1};
            }
            const Options options{element_bytes, 3, compress};
            seeds.push_back(text_of(diff(before, after, options).bytes));
        }
    }
    // A few changes in one short block, where most of the bytes are positions.
    for (const std::size_t element_bytes : {1UL, 2UL, 4UL, 8UL}) {
        const Bytes before(100 * element_bytes);
        Bytes after = before;
        for (std::size_t i = 0; i < after.size(); i += 9 * element_bytes) after[i] = std::byte{1};
        seeds.push_back(text_of(diff(before, after, {element_bytes, 3, false}).bytes));
    }
    // Two versions of a chunk, one after the other.
    std::string versions(3001, 'a');
    for (std::size_t i = 1500; i < 3000; i += 1 + random.below(40)) versions[i] = 'b';
    seeds.push_back(versions);
    return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data), size);
    weightcast::delta::check_apply(input);
    weightcast::delta::check_diff(input);
    return 0;
}
