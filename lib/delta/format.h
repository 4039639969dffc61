// The encoding of a difference, as docs/delta.md specifies it: its header, and its blocks' heads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::delta {

inline constexpr std::size_t kHeaderBytes = 28;
inline constexpr std::size_t kBlockElements = 4096;
inline constexpr std::size_t kHeadBytes = 2;

struct Header {
    std::uint8_t element_bytes = 1;
    bool positions_compressed = false;
    bool values_compressed = false;
    std::uint8_t tail_mask = 0;  // bit i: byte i behind the last element changed
    std::uint32_t chunk_bytes = 0;
    std::uint32_t changed = 0;  // elements
    std::uint32_t positions_bytes = 0;
    std::uint32_t positions_stored_bytes = 0;  // compressed, if they are
    std::uint32_t values_stored_bytes = 0;     // compressed, if they are

    std::size_t elements() const { return chunk_bytes / element_bytes; }
    std::size_t tail_bytes() const { return chunk_bytes % element_bytes; }
    std::size_t blocks() const { return (elements() + kBlockElements - 1) / kBlockElements; }
    // Before compression.
    std::size_t values_bytes() const;
};

void encode_header(const Header& header, std::vector<std::byte>& out);

// The header of `encoded`, all of whose fields agree with one another, with the size of the chunk
// and with the number of bytes that follow. Errors: invalid_input.
Result<Header> decode_header(std::span<const std::byte> encoded, std::size_t chunk_bytes);

enum class BlockKind : std::uint8_t {
    gaps,    // from each changed element to the next, of `gap_bits` each; or nothing changed
    bitmap,  // a bit for each element
    all,     // all changed
    broken,  // no such kind
};

// Of up to kBlockElements consecutive elements.
struct BlockHead {
    BlockKind kind = BlockKind::gaps;
    std::uint8_t gap_bits = 0;  // 0 to 12
    std::uint16_t changed = 0;  // elements
};

std::uint16_t encode_head(const BlockHead& head);
BlockHead decode_head(std::uint16_t encoded, std::size_t elements);

constexpr std::size_t bitmap_bytes(std::size_t elements) { return (elements + 7) / 8; }
constexpr std::size_t gaps_bytes(std::size_t changed, std::size_t gap_bits) {
    return (changed * gap_bits + 7) / 8;
}
// The elements of block `block` of a chunk of `elements`.
constexpr std::size_t block_elements(std::size_t elements, std::size_t block) {
    return std::min(kBlockElements, elements - block * kBlockElements);
}
// The bytes of a block's positions behind the heads.
std::size_t payload_bytes(const BlockHead& head, std::size_t elements);

// Eight bytes at any address.
inline std::uint64_t load_u64(const std::byte* at) {
    std::uint64_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return value;
}

}  // namespace weightcast::delta
