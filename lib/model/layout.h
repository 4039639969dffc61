// How the bytes of a version are cut: artifacts one after another in one address space, each
// starting on a chunk boundary; chunks and buckets of fixed size in that space. An address is
// called a *place*. The last chunk of an artifact may be short; the gap behind it belongs to
// nobody.
#pragma once

#include <cstdint>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::model {

inline constexpr std::uint32_t kChunkShiftMin = 16;  // 64 KiB
inline constexpr std::uint32_t kChunkShiftMax = 24;  // 16 MiB

struct LayoutOptions {
    std::uint32_t chunk_shift = 20;        // log2 of the bytes of a chunk
    std::uint32_t chunks_per_bucket = 64;  // a power of two
    bool operator==(const LayoutOptions&) const = default;
};

// A piece of an artifact.
struct ArtifactRange {
    std::uint32_t artifact = 0;
    std::uint64_t offset = 0;  // in the artifact
    std::uint64_t bytes = 0;
};

// Value; all methods const and cheap (chunk lookup is a binary search over artifacts).
class Layout {
  public:
    Layout() = default;
    // Errors: invalid_input (a shift out of range, more than 2^32 - 2 chunks, overflow).
    static Result<Layout> make(const LayoutOptions& options,
                               const std::vector<std::uint64_t>& artifact_bytes);

    std::uint64_t chunk_bytes() const { return std::uint64_t{1} << options_.chunk_shift; }
    std::uint32_t chunk_count() const { return first_chunk_.empty() ? 0 : first_chunk_.back(); }
    std::uint32_t bucket_count() const;
    std::uint32_t bucket_of(std::uint32_t chunk) const;
    std::uint64_t total_bytes() const { return total_bytes_; }
    const LayoutOptions& options() const { return options_; }

    // The first chunk of an artifact; the next artifact's first chunk bounds it.
    std::uint32_t first_chunk(std::uint32_t artifact) const { return first_chunk_[artifact]; }
    std::uint64_t place_of(std::uint32_t artifact) const {
        return std::uint64_t{first_chunk_[artifact]} << options_.chunk_shift;
    }
    // Where a chunk lies, and how long it is. REQUIRES: chunk < chunk_count()
    ArtifactRange chunk_range(std::uint32_t chunk) const;
    // Bytes of the whole address space, gaps included.
    std::uint64_t space_bytes() const {
        return std::uint64_t{chunk_count()} << options_.chunk_shift;
    }
    bool operator==(const Layout&) const = default;

  private:
    LayoutOptions options_;
    std::vector<std::uint32_t> first_chunk_;  // of each artifact, and one past the last
    std::vector<std::uint64_t> artifact_bytes_;
    std::uint64_t total_bytes_ = 0;
};

}  // namespace weightcast::model
