#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <new>

#include "base/compression.h"
#include "delta/delta.h"
#include "delta/format.h"

namespace weightcast::delta {
namespace {

// Gaps and bitmaps are read up to eight bytes at a time.
constexpr std::size_t kReadAheadBytes = 8;

// Reads gaps of `gap_bits` each. Reads up to four bytes too many.
class GapReader {
  public:
    GapReader(const std::byte* first, unsigned gap_bits) : first_(first), gap_bits_(gap_bits) {}

    std::size_t next() {
        std::uint32_t bits = 0;
        std::memcpy(&bits, first_ + at_ / 8, sizeof bits);
        const std::size_t gap = bits >> (at_ % 8) & ((1U << gap_bits_) - 1);
        at_ += gap_bits_;
        return gap;
    }

  private:
    const std::byte* first_;
    std::size_t gap_bits_;
    std::size_t at_ = 0;  // bit
};

// Bits first to first + 63 of a bitmap of `elements`; those behind its last bit are 0.
std::uint64_t bitmap_word(const std::byte* bitmap, std::size_t first, std::size_t elements) {
    const std::size_t left = elements - first;
    const std::uint64_t word = load_u64(bitmap + first / 8);
    return left >= 64 ? word : word & ((std::uint64_t{1} << left) - 1);
}

// As std::popcount, of which compilers make a call where the processor may lack the instruction.
std::uint64_t count_ones(std::uint64_t word) {
    word -= word >> 1U & 0x5555555555555555ULL;
    word = (word & 0x3333333333333333ULL) + (word >> 2U & 0x3333333333333333ULL);
    return ((word + (word >> 4U)) & 0x0F0F0F0F0F0F0F0FULL) * 0x0101010101010101ULL >> 56U;
}

// Whether the last bits of a part's last byte, which nothing needs, are 0.
bool padding_is_zero(const std::byte* first, std::size_t bits) {
    if (bits % 8 == 0) return true;
    return std::to_integer<unsigned>(first[bits / 8]) >> (bits % 8) == 0;
}

bool block_is_sound(const BlockHead& head, const std::byte* payload, std::size_t elements) {
    switch (head.kind) {
        case BlockKind::gaps: {
            if (head.changed == 0) return head.gap_bits == 0;
            GapReader gaps(payload, head.gap_bits);
            std::size_t end = head.changed;
            for (std::size_t i = 0; i < head.changed; ++i) end += gaps.next();
            return end <= elements &&
                   padding_is_zero(payload, std::size_t{head.changed} * head.gap_bits);
        }
        case BlockKind::bitmap: {
            std::uint64_t ones = 0;
            for (std::size_t i = 0; i < elements; i += 64) {
                ones += count_ones(bitmap_word(payload, i, elements));
            }
            return ones == head.changed && padding_is_zero(payload, elements);
        }
        case BlockKind::all:
            return true;
        default:
            return false;
    }
}

// The blocks of a chunk, one after another.
class Blocks {
  public:
    Blocks(const Header& header, const std::byte* positions)
        : elements_(header.elements()),
          head_(positions),
          payload_(positions + header.blocks() * kHeadBytes) {}

    bool at_end() const { return first_ >= elements_; }
    std::size_t first() const { return first_; }
    std::size_t elements() const { return std::min(kBlockElements, elements_ - first_); }
    const std::byte* payload() const { return payload_; }
    BlockHead head() const {
        std::uint16_t encoded = 0;
        std::memcpy(&encoded, head_, kHeadBytes);
        return decode_head(encoded, elements());
    }
    void advance(const BlockHead& head) {
        payload_ += payload_bytes(head, elements());
        head_ += kHeadBytes;
        first_ += kBlockElements;
    }

  private:
    std::size_t elements_;
    const std::byte* head_;
    const std::byte* payload_;
    std::size_t first_ = 0;
};

// Checks that every position is inside its block, that they are as many as the header says, and
// that the blocks take all of `positions` and no more.
Result<void> check_positions(const Header& header, std::span<const std::byte> positions) {
    const std::byte* end = positions.data() + positions.size();
    std::size_t changed = 0;
    Blocks blocks(header, positions.data());
    while (!blocks.at_end()) {
        const BlockHead head = blocks.head();
        const auto left = static_cast<std::size_t>(end - blocks.payload());
        if (payload_bytes(head, blocks.elements()) > left) {
            return invalid_input(fmt::format(
                "difference: block at element {} does not end within {} bytes of positions",
                blocks.first(), positions.size()));
        }
        if (!block_is_sound(head, blocks.payload(), blocks.elements())) {
            return invalid_input(
                fmt::format("difference: block at element {} does not name {} of its {} elements",
                            blocks.first(), head.changed, blocks.elements()));
        }
        changed += head.changed;
        blocks.advance(head);
    }
    if (blocks.payload() != end) {
        return invalid_input(fmt::format("difference: {} bytes behind the positions, not 0",
                                         end - blocks.payload()));
    }
    if (changed != header.changed) {
        return invalid_input(fmt::format("difference: changed is {}, but the blocks have {}",
                                         header.changed, changed));
    }
    return success();
}

template <std::size_t kElement>
void write_gaps(const BlockHead& head, const std::byte* payload, const std::byte* values,
                std::byte* to) {
    GapReader gaps(payload, head.gap_bits);
    for (std::size_t i = 0; i < head.changed; ++i) {
        to += gaps.next() * kElement;
        std::memcpy(to, values + i * kElement, kElement);
        to += kElement;
    }
}

template <std::size_t kElement>
void write_bitmap(const std::byte* bitmap, std::size_t elements, const std::byte* values,
                  std::byte* to) {
    for (std::size_t first = 0; first < elements; first += 64) {
        std::uint64_t bits = bitmap_word(bitmap, first, elements);
        for (; bits != 0; bits &= bits - 1) {
            const std::size_t at = first + static_cast<unsigned>(std::countr_zero(bits));
            std::memcpy(to + at * kElement, values, kElement);
            values += kElement;
        }
    }
}

template <std::size_t kElement>
void write_blocks(const Header& header, const std::byte* positions, const std::byte* values,
                  std::byte* chunk) {
    for (Blocks blocks(header, positions); !blocks.at_end();) {
        const BlockHead head = blocks.head();
        std::byte* to = chunk + blocks.first() * kElement;
        switch (head.kind) {
            case BlockKind::all:
                std::memcpy(to, values, head.changed * kElement);
                break;
            case BlockKind::bitmap:
                write_bitmap<kElement>(blocks.payload(), blocks.elements(), values, to);
                break;
            default:
                write_gaps<kElement>(head, blocks.payload(), values, to);
        }
        values += head.changed * kElement;
        blocks.advance(head);
    }
}

void write_tail(const Header& header, const std::byte* values, std::byte* chunk) {
    std::byte* tail = chunk + header.elements() * header.element_bytes;
    for (std::size_t i = 0; i < header.tail_bytes(); ++i) {
        if ((header.tail_mask >> i & 1U) != 0) tail[i] = *values++;
    }
}

using WriteBlocks = void (*)(const Header&, const std::byte*, const std::byte*, std::byte*);
constexpr std::array<WriteBlocks, 4> kWriteBlocks{write_blocks<1>, write_blocks<2>, write_blocks<4>,
                                                  write_blocks<8>};

Error not_compressed(const char* part, std::size_t bytes) {
    return invalid_input(
        fmt::format("difference: {} are not {} bytes compressed with zstd", part, bytes));
}

Result<void> apply_checked(std::span<const std::byte> encoded, std::span<std::byte> chunk) {
    WEIGHTCAST_TRY(const Header header, decode_header(encoded, chunk.size()));
    const auto body = encoded.subspan(kHeaderBytes);
    const auto stored_positions = body.first(header.positions_stored_bytes);
    auto values = body.subspan(header.positions_stored_bytes);
    Decompressor decompressor;
    // The positions are copied in any case, for the bytes behind them that are read and not used.
    const Memory positions_memory =
        std::make_unique_for_overwrite<std::byte[]>(header.positions_bytes + kReadAheadBytes);
    const std::span positions(positions_memory.get(), header.positions_bytes);
    std::memset(positions.data() + positions.size(), 0, kReadAheadBytes);
    if (!header.positions_compressed) {
        std::memcpy(positions.data(), stored_positions.data(), stored_positions.size());
    } else if (!decompressor.decompress(stored_positions, positions)) {
        return not_compressed("positions", positions.size());
    }
    WEIGHTCAST_CHECK(check_positions(header, positions));
    Memory values_memory;
    if (header.values_compressed) {
        values_memory = std::make_unique_for_overwrite<std::byte[]>(header.values_bytes());
        const std::span all(values_memory.get(), header.values_bytes());
        if (!decompressor.decompress(values, all)) return not_compressed("values", all.size());
        values = all;
    }
    const auto write = kWriteBlocks[static_cast<unsigned>(std::countr_zero(header.element_bytes))];
    write(header, positions.data(), values.data(), chunk.data());
    const std::size_t elements_bytes = std::size_t{header.changed} * header.element_bytes;
    write_tail(header, values.data() + elements_bytes, chunk.data());
    return success();
}

}  // namespace

Result<void> apply(std::span<const std::byte> encoded, std::span<std::byte> chunk) {
    try {
        return apply_checked(encoded, chunk);
    } catch (const std::bad_alloc&) {
        return Error{Code::no_space, 0,
                     fmt::format("no memory to apply a difference to {} bytes", chunk.size())};
    }
}

}  // namespace weightcast::delta
