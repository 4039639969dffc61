// The differences of all chunks between two versions, as one run of bytes (docs/delta.md, "Sets").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::delta {

inline constexpr std::size_t kSetHeaderBytes = 64;
inline constexpr std::size_t kSetEntryBytes = 8;

using Root = std::array<std::byte, 16>;  // a version's root digest

struct SetHeader {
    std::uint64_t from_version = 0;
    Root from{};
    Root to{};
};

// A chunk's difference. A chunk that differs and has none must be had as a whole.
struct SetEntry {
    std::uint32_t chunk = 0;
    std::span<const std::byte> encoded;  // for apply()
};

// REQUIRES: by ascending chunk; each below 4 GiB
std::vector<std::byte> encode_set(const SetHeader& header, std::span<const SetEntry> entries);

struct Set {
    SetHeader header;
    std::vector<SetEntry> entries;  // by ascending chunk; views of the bytes that were parsed
};

// `bytes` may come from anybody. What the entries say is only looked at by apply().
// Errors: invalid_input (malformed, or a chunk that is not below `chunk_count`).
Result<Set> parse_set(std::span<const std::byte> bytes, std::uint32_t chunk_count);

// Null if it has none.
const SetEntry* find(const Set& set, std::uint32_t chunk);

}  // namespace weightcast::delta
