#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>

#include "base/assert.h"
#include "base/compression.h"
#include "delta/compare.h"
#include "delta/delta.h"
#include "delta/format.h"

namespace weightcast::delta {
namespace {

constexpr std::size_t kWriteAheadBytes = 8;  // Gaps are written four bytes at a time.

// Where the next block goes.
struct Cursor {
    std::byte* head;
    std::byte* payload;
    std::byte* value;
    std::size_t changed = 0;
};

void put_head(const BlockHead& head, Cursor& to) {
    const std::uint16_t encoded = encode_head(head);
    std::memcpy(to.head, &encoded, kHeadBytes);
    to.head += kHeadBytes;
    to.changed += head.changed;
}

// Puts the values at `positions`, and returns the bits that the largest gap between them takes.
template <std::size_t kElement>
unsigned take_values(std::span<const std::uint16_t> positions, const std::byte* after,
                     std::byte* values) {
    unsigned gaps = 0;
    unsigned next = 0;
    for (const unsigned position : positions) {
        std::memcpy(values, after + position * kElement, kElement);
        values += kElement;
        gaps |= position - next;
        next = position + 1;
    }
    return static_cast<unsigned>(std::bit_width(gaps));
}

void pack_gaps(std::span<const std::uint16_t> positions, unsigned gap_bits, std::byte* to) {
    std::uint64_t bits = 0;
    unsigned filled = 0;
    unsigned next = 0;
    for (const unsigned position : positions) {
        bits |= std::uint64_t{position - next} << filled;
        next = position + 1;
        filled += gap_bits;
        if (filled >= 32) {
            std::memcpy(to, &bits, 4);
            to += 4;
            bits >>= 32U;
            filled -= 32;
        }
    }
    std::memcpy(to, &bits, 4);
}

template <std::size_t kElement>
void encode_block(const Changes& changes, std::size_t elements, const std::byte* after,
                  Cursor& to) {
    BlockHead head{BlockKind::all, 0, static_cast<std::uint16_t>(changes.count)};
    if (changes.count == elements) {
        std::memcpy(to.value, after, elements * kElement);
    } else {
        const auto positions = std::span(changes.positions).first(changes.count);
        const unsigned gap_bits = take_values<kElement>(positions, after, to.value);
        if (gaps_bytes(changes.count, gap_bits) > bitmap_bytes(elements)) {
            head.kind = BlockKind::bitmap;
            std::memcpy(to.payload, changes.bitmap.data(), bitmap_bytes(elements));
        } else {
            head.kind = BlockKind::gaps;
            head.gap_bits = static_cast<std::uint8_t>(gap_bits);
            pack_gaps(positions, gap_bits, to.payload);
        }
    }
    put_head(head, to);
    to.payload += payload_bytes(head, elements);
    to.value += changes.count * kElement;
}

// Encodes block after block. False as soon as it takes `limit_bytes` in all.
template <std::size_t kElement>
bool encode_blocks(std::span<const std::byte> before, std::span<const std::byte> after,
                   double limit_bytes, Cursor& to) {
    const Compare compare = compare_for(kElement);
    const std::size_t elements = after.size() / kElement;
    Changes changes;
    std::size_t bytes = 0;
    for (std::size_t block = 0; block * kBlockElements < elements; ++block) {
        const std::size_t count = block_elements(elements, block);
        const std::size_t at = block * kBlockElements * kElement;
        // memcmp() ends at the first difference, so it costs little where there is one.
        if (std::memcmp(before.data() + at, after.data() + at, count * kElement) == 0) {
            put_head({}, to);
            continue;
        }
        compare(before.data() + at, after.data() + at, count, changes);
        const std::byte* payload = to.payload;
        const std::byte* value = to.value;
        encode_block<kElement>(changes, count, after.data() + at, to);
        bytes += static_cast<std::size_t>((to.payload - payload) + (to.value - value));
        if (static_cast<double>(bytes) >= limit_bytes) return false;
    }
    return true;
}

// The tail's mask; its changed bytes go to the values.
std::uint8_t encode_tail(std::span<const std::byte> before, std::span<const std::byte> after,
                         Cursor& to) {
    unsigned mask = 0;
    for (std::size_t i = 0; i < after.size(); ++i) {
        if (before[i] == after[i]) continue;
        mask |= 1U << i;
        *to.value++ = after[i];
    }
    return static_cast<std::uint8_t>(mask);
}

using EncodeBlocks = bool (*)(std::span<const std::byte>, std::span<const std::byte>, double,
                              Cursor&);
constexpr std::array<EncodeBlocks, 4> kEncodeBlocks{encode_blocks<1>, encode_blocks<2>,
                                                    encode_blocks<4>, encode_blocks<8>};

std::span<const std::byte> bytes_between(const std::byte* first, const std::byte* last) {
    return {first, static_cast<std::size_t>(last - first)};
}

Difference assemble(Header header, std::span<const std::byte> positions,
                    std::span<const std::byte> values, bool compress) {
    header.positions_bytes = static_cast<std::uint32_t>(positions.size());
    Memory positions_memory;
    Memory values_memory;
    if (compress) {
        Compressor compressor;
        header.positions_compressed = compressor.compress(positions, positions_memory);
        header.values_compressed = compressor.compress(values, values_memory);
    }
    header.positions_stored_bytes = static_cast<std::uint32_t>(positions.size());
    header.values_stored_bytes = static_cast<std::uint32_t>(values.size());
    Difference difference;
    difference.form = Form::sparse;
    difference.bytes.reserve(kHeaderBytes + positions.size() + values.size());
    encode_header(header, difference.bytes);
    for (const auto part : {positions, values}) {
        difference.bytes.insert(difference.bytes.end(), part.begin(), part.end());
    }
    return difference;
}

}  // namespace

Difference diff(std::span<const std::byte> before, std::span<const std::byte> after,
                const Options& options) {
    WEIGHTCAST_ASSERT(before.size() == after.size() && after.size() <= kChunkBytesMax);
    WEIGHTCAST_ASSERT(std::has_single_bit(options.element_bytes) && options.element_bytes <= 8);
    Header header;
    header.element_bytes = static_cast<std::uint8_t>(options.element_bytes);
    header.chunk_bytes = static_cast<std::uint32_t>(after.size());
    const std::size_t heads_bytes = header.blocks() * kHeadBytes;
    // The most that can be needed: pages that nobody writes cost nothing.
    const Memory positions = std::make_unique_for_overwrite<std::byte[]>(
        heads_bytes + bitmap_bytes(header.elements()) + kWriteAheadBytes);
    const Memory values = std::make_unique_for_overwrite<std::byte[]>(after.size());
    Cursor to{positions.get(), positions.get() + heads_bytes, values.get()};
    const double limit_bytes = options.full_ratio * static_cast<double>(after.size()) -
                               static_cast<double>(kHeaderBytes + heads_bytes);
    const auto encode =
        kEncodeBlocks[static_cast<unsigned>(std::countr_zero(header.element_bytes))];
    if (!encode(before, after, limit_bytes, to)) return {Form::full, {}};
    const std::size_t tail_at = after.size() - header.tail_bytes();
    header.tail_mask = encode_tail(before.subspan(tail_at), after.subspan(tail_at), to);
    header.changed = static_cast<std::uint32_t>(to.changed);
    if (to.value == values.get()) return {Form::same, {}};
    const auto all_positions = bytes_between(positions.get(), to.payload);
    const auto all_values = bytes_between(values.get(), to.value);
    const std::size_t body_bytes = all_positions.size() - heads_bytes + all_values.size();
    if (static_cast<double>(body_bytes) >= limit_bytes) return {Form::full, {}};
    return assemble(header, all_positions, all_values, options.compress);
}

}  // namespace weightcast::delta
