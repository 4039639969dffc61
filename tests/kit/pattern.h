// Bytes that tell where they belong: a seeded pattern, checked byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace weightcast::kit {

// The pattern's byte at `offset`.
inline std::byte pattern_byte(std::uint64_t seed, std::uint64_t offset) {
    std::uint64_t z = (seed + 1) * 0x9E3779B97F4A7C15U + (offset / 8) * 0xD1B54A32D192ED03U;
    z = (z ^ (z >> 32U)) * 0x94D049BB133111EBU;
    z ^= z >> 29U;
    return static_cast<std::byte>(z >> (8 * (offset % 8)) & 0xFFU);
}

inline void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) {
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = pattern_byte(seed, i);
}

// True if `bytes` are those of the pattern from `offset` on.
inline bool has_pattern(std::span<const std::byte> bytes, std::uint64_t seed,
                        std::uint64_t offset) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (bytes[i] != pattern_byte(seed, offset + i)) return false;
    }
    return true;
}

}  // namespace weightcast::kit
