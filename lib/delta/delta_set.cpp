#include "delta/delta_set.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace weightcast::delta {
namespace {

constexpr std::array<char, 8> kSetMagic = {'W', 'C', 'D', 'E', 'L', 'S', '0', '1'};

// Little-endian, like the machine: the build refuses others.
template <typename Number>
void put_number(std::byte*& at, Number number) {
    std::memcpy(at, &number, sizeof number);
    at += sizeof number;
}

template <typename Number>
Number take_number(const std::byte*& at) {
    Number number{};
    std::memcpy(&number, at, sizeof number);
    at += sizeof number;
    return number;
}

Error bad_set(const std::string& why) {
    return {Code::invalid_input, 0, "a set of deltas is malformed: " + why};
}

}  // namespace

std::vector<std::byte> encode_set(const SetHeader& header, std::span<const SetEntry> entries) {
    std::size_t bytes = kSetHeaderBytes + entries.size() * kSetEntryBytes;
    for (const SetEntry& entry : entries) bytes += entry.encoded.size();
    std::vector<std::byte> set(bytes);
    std::byte* at = set.data();
    put_number(at, kSetMagic);
    put_number(at, header.from_version);
    put_number(at, header.from);
    put_number(at, header.to);
    put_number(at, static_cast<std::uint32_t>(entries.size()));
    at = set.data() + kSetHeaderBytes;
    for (const SetEntry& entry : entries) {
        WEIGHTCAST_ASSERT(entry.encoded.size() <= UINT32_MAX);
        put_number(at, entry.chunk);
        put_number(at, static_cast<std::uint32_t>(entry.encoded.size()));
    }
    for (const SetEntry& entry : entries) {
        if (entry.encoded.empty()) continue;
        std::memcpy(at, entry.encoded.data(), entry.encoded.size());
        at += entry.encoded.size();
    }
    return set;
}

Result<Set> parse_set(std::span<const std::byte> bytes, std::uint32_t chunk_count) {
    if (bytes.size() < kSetHeaderBytes) return bad_set("it ends in its header");
    const std::byte* at = bytes.data();
    if (take_number<std::array<char, 8>>(at) != kSetMagic) return bad_set("it has another magic");
    Set set;
    set.header.from_version = take_number<std::uint64_t>(at);
    set.header.from = take_number<Root>(at);
    set.header.to = take_number<Root>(at);
    const auto count = take_number<std::uint32_t>(at);
    if (!std::all_of(at, bytes.data() + kSetHeaderBytes,
                     [](std::byte byte) { return byte == std::byte{0}; })) {
        return bad_set("its header's rest is not zero");
    }
    at = bytes.data() + kSetHeaderBytes;
    std::uint64_t rest = bytes.size() - kSetHeaderBytes;
    if (count > chunk_count || count > rest / kSetEntryBytes) {
        return bad_set(fmt::format("it has {} entries", count));
    }
    rest -= std::uint64_t{count} * kSetEntryBytes;
    std::span<const std::byte> encoded = bytes.last(static_cast<std::size_t>(rest));
    set.entries.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto chunk = take_number<std::uint32_t>(at);
        const auto size = take_number<std::uint32_t>(at);
        const bool ascending = set.entries.empty() || chunk > set.entries.back().chunk;
        if (!ascending || chunk >= chunk_count || size > encoded.size()) {
            return bad_set(fmt::format("entry {} is of chunk {} with {} bytes", i, chunk, size));
        }
        set.entries.push_back({chunk, encoded.first(size)});
        encoded = encoded.subspan(size);
    }
    if (!encoded.empty()) return bad_set(fmt::format("{} bytes are left over", encoded.size()));
    return set;
}

const SetEntry* find(const Set& set, std::uint32_t chunk) {
    const auto found = std::ranges::lower_bound(set.entries, chunk, {}, &SetEntry::chunk);
    return found != set.entries.end() && found->chunk == chunk ? &*found : nullptr;
}

}  // namespace weightcast::delta
