// The sparse difference of two versions of a chunk of weights: which elements changed, and to what.
// docs/delta.md specifies the encoding. Pure: no I/O and no threads; the functions are reentrant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::delta {

inline constexpr std::size_t kChunkBytesMax = std::size_t{64} << 20;

enum class Form : std::uint8_t {
    same,    // Nothing changed: no bytes.
    sparse,  // The encoded overwrite, for apply().
    full,    // No bytes: an encoding would save too little, take the chunk's own.
};

struct Difference {
    Form form = Form::same;
    std::vector<std::byte> bytes;
};

struct Options {
    std::size_t element_bytes = 2;  // 1, 2, 4 or 8: the width of the weights' dtype
    // `full` where the encoding, before zstd, is not smaller than this share of the chunk.
    double full_ratio = 0.9;
    bool compress = true;  // with zstd, level 1, what gets at least 5 % smaller by it
};

// What turns `before` into `after`. Where the size is no multiple of element_bytes, the bytes
// behind the last element are compared one by one. The encoding depends on nothing but the
// arguments and zstd's version and level. REQUIRES: both have the same size, at most
// kChunkBytesMax; element_bytes is 1, 2, 4 or 8.
Difference diff(std::span<const std::byte> before, std::span<const std::byte> after,
                const Options& options);

// Overwrites in `chunk`, which holds the older version, what changed. Nothing is added to the old
// bytes, so that applying again, or to a chunk that a failure left half-applied, gives the same.
// `encoded` may come from anybody: it is checked as a whole before the first write.
// Errors: invalid_input (malformed, or of a chunk of another size; `chunk` is as before), no_space.
Result<void> apply(std::span<const std::byte> encoded, std::span<std::byte> chunk);

}  // namespace weightcast::delta
