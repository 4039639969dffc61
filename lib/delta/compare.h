// The loop over both versions, which the processor's vector instructions make several times faster.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "delta/format.h"

namespace weightcast::delta {

inline constexpr std::size_t kWordBits = 64;

// The elements of a block that differ. Large: reused, and not initialised.
struct Changes {
    std::size_t count;
    // Bit i % 64 of word i / 64 for element i; the bits behind the last element are 0.
    std::array<std::uint64_t, kBlockElements / kWordBits> bitmap;
    // `count` of them, ascending, or nothing where all differ. What is behind them may be written.
    std::array<std::uint16_t, kBlockElements + kWordBits> positions;
};

// Compares `elements` of both, at most kBlockElements, and sets all of `changes`.
using Compare = void (*)(const std::byte* before, const std::byte* after, std::size_t elements,
                         Changes& changes);

// The fastest one for this processor. REQUIRES: element_bytes is 1, 2, 4 or 8
Compare compare_for(std::size_t element_bytes);

// Does without any particular instructions.
Compare compare_portable_for(std::size_t element_bytes);

}  // namespace weightcast::delta
