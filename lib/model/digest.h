// The digest tree: leaf (16 KiB, XXH3-64) -> chunk (XXH3-128 over its leaf digests) -> bucket ->
// root. XXH3: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. All functions:
// reentrant.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "weightcast/result.h"

namespace weightcast::model {

inline constexpr std::size_t kLeafBytes = 16384;

// 128 bits, in XXH3-128's canonical (big-endian) byte order.
struct Digest {
    std::array<std::byte, 16> bytes{};
    auto operator<=>(const Digest&) const = default;
};

struct Sha256 {
    std::array<std::byte, 32> bytes{};
    auto operator<=>(const Sha256&) const = default;
};

// Digest of one chunk held in one piece. The last leaf may be short; an empty chunk has no leaves.
Digest digest_chunk(std::span<const std::byte> chunk);

// Digest of one chunk that arrives in pieces of any size.
class ChunkHasher {
  public:
    ChunkHasher();
    ~ChunkHasher();
    ChunkHasher(const ChunkHasher&) = delete;
    ChunkHasher& operator=(const ChunkHasher&) = delete;

    void update(std::span<const std::byte> piece);
    // Gives the digest of all pieces so far and starts anew.
    Digest finish();

  private:
    struct State;
    std::unique_ptr<State> state_;  // xxHash wants 64-byte alignment, hence apart
};

// Digest of a bucket from its chunks' digests, or of the root from the buckets' digests:
// XXH3-128 over the concatenated 16-byte digests.
Digest digest_of_digests(std::span<const Digest> digests);

Sha256 sha256(std::span<const std::byte> bytes);

std::string to_string(const Digest& digest);  // 32 hexadecimal digits
std::string to_string(const Sha256& digest);  // 64 hexadecimal digits
Result<Digest> parse_digest(std::string_view text);
Result<Sha256> parse_sha256(std::string_view text);

}  // namespace weightcast::model
