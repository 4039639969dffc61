#include "model/layout.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "base/assert.h"

namespace weightcast::model {
namespace {

constexpr std::uint64_t kChunksMax = std::numeric_limits<std::uint32_t>::max() - 1;

}  // namespace

Result<Layout> Layout::make(const LayoutOptions& options,
                            const std::vector<std::uint64_t>& artifact_bytes) {
    if (options.chunk_shift < kChunkShiftMin || options.chunk_shift > kChunkShiftMax) {
        return invalid_input("chunk_shift is " + std::to_string(options.chunk_shift) + ", not " +
                             std::to_string(kChunkShiftMin) + " to " +
                             std::to_string(kChunkShiftMax));
    }
    if (!std::has_single_bit(options.chunks_per_bucket)) {
        return invalid_input("chunks_per_bucket is " + std::to_string(options.chunks_per_bucket) +
                             ", not a power of two");
    }
    Layout layout;
    layout.options_ = options;
    layout.first_chunk_.reserve(artifact_bytes.size() + 1);
    layout.first_chunk_.push_back(0);
    const std::uint64_t mask = layout.chunk_bytes() - 1;
    std::uint64_t chunks = 0;
    for (const std::uint64_t bytes : artifact_bytes) {
        // Each term is below 2^48 and the sum so far below 2^32, so nothing overflows.
        chunks += (bytes >> options.chunk_shift) + ((bytes & mask) != 0 ? 1 : 0);
        if (chunks > kChunksMax) {
            return invalid_input("the artifacts have more than " + std::to_string(kChunksMax) +
                                 " chunks of " + std::to_string(layout.chunk_bytes()) + " bytes");
        }
        layout.first_chunk_.push_back(static_cast<std::uint32_t>(chunks));
        layout.total_bytes_ += bytes;
    }
    layout.artifact_bytes_ = artifact_bytes;
    return layout;
}

std::uint32_t Layout::bucket_count() const {
    return chunk_count() == 0 ? 0 : bucket_of(chunk_count() - 1) + 1;
}

std::uint32_t Layout::bucket_of(std::uint32_t chunk) const {
    return chunk / options_.chunks_per_bucket;
}

ArtifactRange Layout::chunk_range(std::uint32_t chunk) const {
    WEIGHTCAST_ASSERT(chunk < chunk_count());
    // An empty artifact starts where the next one does, so the last one that starts at or before
    // the chunk is the one that has it.
    const auto after = std::upper_bound(first_chunk_.begin(), first_chunk_.end(), chunk);
    const auto artifact = static_cast<std::uint32_t>(after - first_chunk_.begin() - 1);
    const std::uint64_t offset = std::uint64_t{chunk - first_chunk_[artifact]}
                                 << options_.chunk_shift;
    return {artifact, offset, std::min(chunk_bytes(), artifact_bytes_[artifact] - offset)};
}

}  // namespace weightcast::model
