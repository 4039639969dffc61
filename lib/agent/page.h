// The availability page: registered host memory in which a holder says which chunks it has
// verified. Readers READ it; the holder's CPU does nothing for that. Byte layout: docs/wire.md,
// "Availability page".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "weightcast/result.h"

namespace weightcast::agent {

inline constexpr std::size_t kPageHeaderBytes = 64;

enum class PageState : std::uint32_t { partial = 0, complete = 1, withdrawn = 2 };

// Where in the page the bit of a chunk is, bit i being bit i % 8 of byte i / 8.
inline constexpr std::uint64_t page_bit(std::uint32_t chunk) {
    return kPageHeaderBytes * 8 + chunk;
}

inline constexpr std::size_t page_bytes(std::uint32_t chunk_count) {
    return kPageHeaderBytes + (std::size_t{chunk_count} + 63) / 64 * 8;
}

// The holder's side. set() is thread-safe against itself and remote readers.
class AvailabilityPage {
  public:
    // Errors: no_space, io.
    static Result<AvailabilityPage> create(const std::array<std::byte, 16>& incarnation,
                                           std::uint64_t generation, std::uint32_t chunk_count);

    // Says that a chunk may be read. REQUIRES: its bytes are verified and in place.
    void set(std::uint32_t chunk);
    void set_all();
    void withdraw();
    bool has(std::uint32_t chunk) const;
    std::uint32_t held() const;
    std::uint32_t chunk_count() const { return chunk_count_; }
    // Bit i set: all chunks of bucket i are held. Byte i/8, lowest bit first.
    std::vector<std::byte> bucket_bitmap(std::uint32_t chunks_per_bucket) const;

    const SharedMemory& memory() const { return memory_; }

  private:
    SharedMemory memory_;
    std::uint32_t chunk_count_ = 0;
};

// The reader's side: what a copy of a page says.
struct PageView {
    std::array<std::byte, 16> incarnation{};
    std::uint64_t generation = 0;
    PageState state = PageState::partial;
    std::uint32_t chunk_count = 0;
    std::uint32_t held = 0;
    std::vector<std::uint64_t> words;  // bit c % 64 of word c / 64: chunk c is held
};

// Errors: invalid_input (not a page of `chunk_count` chunks).
Result<PageView> parse_page(std::span<const std::byte> bytes, std::uint32_t chunk_count);

}  // namespace weightcast::agent
