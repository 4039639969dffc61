#include "delta/format.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <string_view>

#include "delta/delta.h"

namespace weightcast::delta {
namespace {

static_assert(std::endian::native == std::endian::little, "the encoding is little-endian in place");

constexpr std::string_view kMagic = "WCDX";
constexpr std::uint8_t kFormatVersion = 1;
constexpr std::uint8_t kPositionsCompressed = 1;
constexpr std::uint8_t kValuesCompressed = 2;

constexpr unsigned kCountBits = 12;  // of a head; what the block's positions are is above them
constexpr unsigned kGapBitsMax = 12;
constexpr unsigned kBitmap = 13;
constexpr unsigned kAll = 14;

std::uint8_t u8_at(std::span<const std::byte> bytes, std::size_t at) {
    return std::to_integer<std::uint8_t>(bytes[at]);
}

std::uint32_t u32_at(std::span<const std::byte> bytes, std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

Error malformed(const char* field, std::uint64_t value, const std::string& limit) {
    return invalid_input(fmt::format("difference: {} is {}, not {}", field, value, limit));
}

// A part that is compressed is smaller than it was, else it has its own size.
bool stored_fits(std::size_t stored_bytes, std::size_t bytes, bool compressed) {
    return compressed ? stored_bytes < bytes : stored_bytes == bytes;
}

Result<void> check_start(std::span<const std::byte> encoded) {
    if (encoded.size() < kHeaderBytes) {
        return malformed("size", encoded.size(), fmt::format("at least {}", kHeaderBytes));
    }
    if (std::memcmp(encoded.data(), kMagic.data(), kMagic.size()) != 0) {
        return invalid_input(fmt::format("difference: magic is not {}", kMagic));
    }
    if (u8_at(encoded, 4) != kFormatVersion) {
        return malformed("format", u8_at(encoded, 4), std::to_string(kFormatVersion));
    }
    const std::uint8_t element_bytes = u8_at(encoded, 5);
    if (!std::has_single_bit(element_bytes) || element_bytes > 8) {
        return malformed("element_bytes", element_bytes, "1, 2, 4 or 8");
    }
    const std::uint8_t flags = u8_at(encoded, 6);
    if (flags > (kPositionsCompressed | kValuesCompressed)) {
        return malformed("flags", flags, "at most 3");
    }
    return success();
}

Result<void> check_fields(const Header& header, std::size_t chunk_bytes, std::size_t body_bytes) {
    if (header.chunk_bytes > kChunkBytesMax || header.chunk_bytes != chunk_bytes) {
        return malformed("chunk_bytes", header.chunk_bytes,
                         fmt::format("{} (at most {})", chunk_bytes, kChunkBytesMax));
    }
    const std::size_t tail_limit = std::size_t{1} << header.tail_bytes();
    if (header.tail_mask >= tail_limit) {
        return malformed("tail_mask", header.tail_mask, fmt::format("less than {}", tail_limit));
    }
    if (header.changed > header.elements()) {
        return malformed("changed", header.changed, fmt::format("at most {}", header.elements()));
    }
    const std::size_t heads_bytes = header.blocks() * kHeadBytes;
    const std::size_t positions_max = heads_bytes + bitmap_bytes(header.elements());
    if (header.positions_bytes < heads_bytes || header.positions_bytes > positions_max) {
        return malformed("positions_bytes", header.positions_bytes,
                         fmt::format("{} to {}", heads_bytes, positions_max));
    }
    if (!stored_fits(header.positions_stored_bytes, header.positions_bytes,
                     header.positions_compressed)) {
        return malformed("positions_stored_bytes", header.positions_stored_bytes,
                         fmt::format("{}{}", header.positions_compressed ? "less than " : "",
                                     header.positions_bytes));
    }
    if (!stored_fits(header.values_stored_bytes, header.values_bytes(), header.values_compressed)) {
        return malformed("values_stored_bytes", header.values_stored_bytes,
                         fmt::format("{}{}", header.values_compressed ? "less than " : "",
                                     header.values_bytes()));
    }
    const std::size_t stored =
        std::size_t{header.positions_stored_bytes} + header.values_stored_bytes;
    if (body_bytes != stored) {
        return malformed("size behind the header", body_bytes, std::to_string(stored));
    }
    return success();
}

}  // namespace

std::size_t Header::values_bytes() const {
    return std::size_t{changed} * element_bytes +
           static_cast<std::size_t>(std::popcount(tail_mask));
}

void encode_header(const Header& header, std::vector<std::byte>& out) {
    const auto put = [&out](const auto& value) {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        out.insert(out.end(), bytes.begin(), bytes.end());
    };
    for (const char letter : kMagic) put(letter);
    put(kFormatVersion);
    put(header.element_bytes);
    put(static_cast<std::uint8_t>((header.positions_compressed ? kPositionsCompressed : 0) |
                                  (header.values_compressed ? kValuesCompressed : 0)));
    put(header.tail_mask);
    put(header.chunk_bytes);
    put(header.changed);
    put(header.positions_bytes);
    put(header.positions_stored_bytes);
    put(header.values_stored_bytes);
}

Result<Header> decode_header(std::span<const std::byte> encoded, std::size_t chunk_bytes) {
    WEIGHTCAST_CHECK(check_start(encoded));
    Header header;
    header.element_bytes = u8_at(encoded, 5);
    header.positions_compressed = (u8_at(encoded, 6) & kPositionsCompressed) != 0;
    header.values_compressed = (u8_at(encoded, 6) & kValuesCompressed) != 0;
    header.tail_mask = u8_at(encoded, 7);
    header.chunk_bytes = u32_at(encoded, 8);
    header.changed = u32_at(encoded, 12);
    header.positions_bytes = u32_at(encoded, 16);
    header.positions_stored_bytes = u32_at(encoded, 20);
    header.values_stored_bytes = u32_at(encoded, 24);
    WEIGHTCAST_CHECK(check_fields(header, chunk_bytes, encoded.size() - kHeaderBytes));
    return header;
}

std::uint16_t encode_head(const BlockHead& head) {
    switch (head.kind) {
        case BlockKind::all:
            return kAll << kCountBits;
        case BlockKind::bitmap:
            return static_cast<std::uint16_t>(kBitmap << kCountBits | head.changed);
        default:
            return static_cast<std::uint16_t>(unsigned{head.gap_bits} << kCountBits | head.changed);
    }
}

BlockHead decode_head(std::uint16_t encoded, std::size_t elements) {
    const unsigned kind = encoded >> kCountBits;
    BlockHead head;
    head.changed = encoded & ((1U << kCountBits) - 1);
    if (kind <= kGapBitsMax) {
        head.gap_bits = static_cast<std::uint8_t>(kind);
    } else if (kind == kBitmap) {
        head.kind = BlockKind::bitmap;
    } else if (kind == kAll && head.changed == 0) {
        head.kind = BlockKind::all;
        head.changed = static_cast<std::uint16_t>(elements);
    } else {
        head.kind = BlockKind::broken;
    }
    return head;
}

std::size_t payload_bytes(const BlockHead& head, std::size_t elements) {
    switch (head.kind) {
        case BlockKind::gaps:
            return gaps_bytes(head.changed, head.gap_bits);
        case BlockKind::bitmap:
            return bitmap_bytes(elements);
        default:
            return 0;
    }
}

}  // namespace weightcast::delta
