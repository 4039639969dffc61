// Goal: a difference overwrites exactly what changed, whatever the sizes and shares; and bytes that
// are no difference of the chunk write nothing. Method: random versions from seeds, compared with
// the versions themselves; encodings broken field by field.
#include "delta/delta.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "base/random.h"
#include "tests/kit/catch.h"

namespace weightcast::delta {
namespace {

using Bytes = std::vector<std::byte>;
using Catch::Matchers::Contains;

constexpr std::array<std::size_t, 4> kWidths{1, 2, 4, 8};
constexpr std::size_t kPositionsAt = 28;  // in an encoding that is not compressed

Bytes random_bytes(std::size_t bytes, Random& random) {
    Bytes data(bytes);
    for (std::byte& b : data) b = static_cast<std::byte>(random.next() & 255U);
    return data;
}

// Changes each byte with the given probability, always to another value.
Bytes changed(Bytes data, double share, Random& random) {
    for (std::byte& b : data) {
        if (random.unit() < share) b ^= static_cast<std::byte>(1 + random.below(255));
    }
    return data;
}

// Changes each element of two bytes with the given probability.
Bytes changed_pairs(Bytes data, double share, Random& random) {
    for (std::size_t i = 0; i + 1 < data.size(); i += 2) {
        if (random.unit() < share) data[i] ^= static_cast<std::byte>(1 + random.below(255));
    }
    return data;
}

// The difference, which must be sparse and turn `before` into `after`.
Bytes checked_diff(const Bytes& before, const Bytes& after, const Options& options) {
    const Difference difference = diff(before, after, options);
    REQUIRE(difference.form == Form::sparse);
    CHECK(static_cast<double>(difference.bytes.size()) <
          options.full_ratio * static_cast<double>(after.size()));
    Bytes chunk = before;
    REQUIRE_OK(delta::apply(difference.bytes, chunk));
    CHECK((chunk == after));
    REQUIRE_OK(delta::apply(difference.bytes, chunk));
    CHECK((chunk == after));
    return difference.bytes;
}

// Why `encoded` is refused for `chunk`, which must stay as it is.
std::string verdict(const Bytes& encoded, const Bytes& chunk) {
    Bytes written = chunk;
    const auto applied = delta::apply(encoded, written);
    CHECK((written == chunk));
    if (applied) return "accepted";
    CHECK(applied.error().code == Code::invalid_input);
    return applied.error().message;
}

template <typename T>
Bytes with(Bytes encoded, std::size_t at, T value) {
    std::memcpy(encoded.data() + at, &value, sizeof value);
    return encoded;
}

template <typename T>
T field(const Bytes& encoded, std::size_t at) {
    T value;
    std::memcpy(&value, encoded.data() + at, sizeof value);
    return value;
}

TEST_CASE("equal versions have no difference") {
    Random random(1);
    for (const std::size_t element_bytes : kWidths) {
        for (const std::size_t bytes : {0UL, 1UL, 7UL, 8UL, 4096UL, 100'003UL}) {
            const Bytes data = random_bytes(bytes, random);
            const Difference difference = diff(data, data, {.element_bytes = element_bytes});
            CHECK(difference.form == Form::same);
            CHECK(difference.bytes.empty());
        }
    }
}

TEST_CASE("a difference of any share and size turns the older version into the newer one") {
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
        Random random(seed);
        for (const std::size_t element_bytes : kWidths) {
            const std::size_t bytes = 4000 + random.below(200'000);
            const double share = random.unit() * random.unit() * random.unit();
            const bool compress = random.below(2) == 0;
            CAPTURE(seed, element_bytes, bytes, share, compress);
            const Bytes before = random_bytes(bytes, random);
            const Bytes after = changed(before, share, random);
            if (before == after) continue;
            // Above 1, an encoding of any size is wanted.
            checked_diff(before, after,
                         {.element_bytes = element_bytes, .full_ratio = 3, .compress = compress});
        }
    }
}

TEST_CASE("a difference names no more than what changed") {
    Random random(2);
    for (const std::size_t element_bytes : kWidths) {
        const Bytes before = random_bytes(50'001, random);
        const Bytes after = changed(before, 0.01, random);
        const Bytes encoded = checked_diff(before, after, {.element_bytes = element_bytes});
        // Onto a chunk of other bytes, only the elements that changed are written.
        Bytes expected = random_bytes(before.size(), random);
        Bytes chunk = expected;
        const std::size_t tail_at = before.size() / element_bytes * element_bytes;
        for (std::size_t at = 0; at < before.size();) {
            const std::size_t size = at < tail_at ? element_bytes : 1;
            if (std::memcmp(&before[at], &after[at], size) != 0) {
                std::memcpy(&expected[at], &after[at], size);
            }
            at += size;
        }
        REQUIRE_OK(delta::apply(encoded, chunk));
        CHECK((chunk == expected));
    }
}

TEST_CASE("one changed element is found at any place, also in a tail") {
    Random random(3);
    for (const std::size_t element_bytes : kWidths) {
        const std::size_t bytes = 4096 * element_bytes + 64 * element_bytes + 5 * element_bytes + 7;
        const Bytes before = random_bytes(bytes, random);
        for (std::size_t at = 0; at < bytes; at += at < 300 || at + 800 > bytes ? 1 : 211) {
            CAPTURE(element_bytes, at);
            Bytes after = before;
            after[at] ^= std::byte{0x80};
            checked_diff(before, after, {.element_bytes = element_bytes});
        }
    }
}

TEST_CASE("runs of changes and whole blocks are found") {
    Random random(4);
    for (const std::size_t element_bytes : kWidths) {
        const std::size_t block_bytes = 4096 * element_bytes;
        const std::size_t bytes = 5 * block_bytes + 1000 * element_bytes;
        const Bytes before = random_bytes(bytes, random);
        for (const auto& [first, count] :
             {std::pair<std::size_t, std::size_t>{0, block_bytes},
              {0, 2 * block_bytes},
              {block_bytes - element_bytes, 2 * element_bytes},
              {block_bytes / 2, block_bytes},
              {3 * block_bytes + element_bytes, block_bytes - element_bytes},
              {5 * block_bytes, bytes - 5 * block_bytes}}) {
            CAPTURE(element_bytes, first, count);
            Bytes after = before;
            for (std::size_t i = first; i < first + count; ++i) after[i] ^= std::byte{1};
            const Bytes encoded = checked_diff(before, after, {.element_bytes = element_bytes});
            CHECK(encoded.size() < count + 1000);
        }
    }
}

TEST_CASE("what saves too little is full") {
    Random random(5);
    const Bytes before = random_bytes(100'000, random);
    CHECK(diff(before, changed_pairs(before, 1, random), {}).form == Form::full);
    CHECK(diff(before, changed_pairs(before, 0.95, random), {}).form == Form::full);
    CHECK(diff(before, changed_pairs(before, 0.7, random), {}).form == Form::sparse);
    CHECK(diff(before, changed_pairs(before, 0.7, random), {.full_ratio = 0.5}).form == Form::full);
    CHECK(diff(before, changed_pairs(before, 0.001, random), {.full_ratio = 0}).form == Form::full);
    const Bytes small(20);
    CHECK(diff(small, changed(small, 1, random), {}).form == Form::full);
    const Bytes tail(1);
    CHECK(diff(tail, changed(tail, 1, random), {}).form == Form::full);
}

TEST_CASE("1 % of random elements of two bytes takes at most 3 % of the chunk") {
    Random random(6);
    const Bytes before = random_bytes(1 << 20, random);
    const Bytes after = changed_pairs(before, 0.01, random);
    const Bytes encoded = checked_diff(before, after, {});
    CHECK(encoded.size() < before.size() * 3 / 100);
    CHECK(encoded.size() < before.size() * 17 / 1000);
}

TEST_CASE("what zstd makes smaller is stored compressed, unless that is not wanted") {
    Random random(7);
    const Bytes before(1 << 18);
    Bytes after = before;
    for (std::size_t i = 0; i < after.size(); i += 4) after[i] = std::byte{1};
    const Bytes compressed = checked_diff(before, after, {});
    const Bytes plain = checked_diff(before, after, {.compress = false});
    CHECK(field<std::uint8_t>(compressed, 6) == 3);
    CHECK(field<std::uint8_t>(plain, 6) == 0);
    CHECK(compressed.size() < 500);
    CHECK(plain.size() > after.size() / 2);
    const Bytes noise = random_bytes(1 << 18, random);
    CHECK(field<std::uint8_t>(diff(noise, changed_pairs(noise, 0.01, random), {}).bytes, 6) == 0);
}

TEST_CASE("a difference completes a chunk that is half applied") {
    Random random(8);
    const Bytes before = random_bytes(100'001, random);
    const Bytes after = changed(before, 0.1, random);
    const Bytes encoded = checked_diff(before, after, {.element_bytes = 4});
    for (const std::size_t done : {1UL, 4096UL, 50'002UL, 100'000UL}) {
        Bytes chunk = before;
        std::copy_n(after.begin(), done, chunk.begin());
        REQUIRE_OK(delta::apply(encoded, chunk));
        CHECK((chunk == after));
    }
}

// 10,000 elements of two bytes in three blocks, and a tail of one byte. Block 0 has one changed
// element, the 101st; block 1 is a bitmap, since one of its gaps takes two bits; block 2 is all
// changed.
struct Sample {
    Bytes before = Bytes(20'001);
    Bytes encoded;
    std::size_t payload_at = kPositionsAt + 6;

    Sample() {
        Bytes after = before;
        after[200] = std::byte{1};
        for (std::size_t i = 0; i < 4096; ++i) {
            if (i != 4000 && (i < 200 || i % 2 == 0)) after[8192 + 2 * i] = std::byte{1};
        }
        for (std::size_t i = 16384; i < 20'001; ++i) after[i] = std::byte{1};
        encoded = checked_diff(before, after, {.compress = false});
    }
};

TEST_CASE("an encoding is the specified one") {
    const Sample sample;
    const Bytes& encoded = sample.encoded;
    CHECK(std::memcmp(encoded.data(), "WCDX\x01\x02\x00\x01", 8) == 0);
    CHECK(field<std::uint32_t>(encoded, 8) == 20'001);
    CHECK(field<std::uint32_t>(encoded, 12) == 1 + 2147 + 1808);
    CHECK(field<std::uint32_t>(encoded, 16) == 6 + 1 + 512);
    CHECK(field<std::uint32_t>(encoded, 20) == 6 + 1 + 512);
    CHECK(field<std::uint32_t>(encoded, 24) == 2 * (1 + 2147 + 1808) + 1);
    CHECK(field<std::uint16_t>(encoded, kPositionsAt) == 0x7001);
    CHECK(field<std::uint16_t>(encoded, kPositionsAt + 2) == 0xD863);
    CHECK(field<std::uint16_t>(encoded, kPositionsAt + 4) == 0xE000);
    CHECK(field<std::uint8_t>(encoded, sample.payload_at) == 100);
    CHECK(field<std::uint16_t>(encoded, sample.payload_at + 1) == 0xFFFF);
    CHECK(encoded.size() == kPositionsAt + 519 + 7913);
}

TEST_CASE("the example of the specification is right") {
    Bytes before(11);
    Bytes after = before;
    after[2] = after[3] = std::byte{0x11};
    after[8] = after[9] = std::byte{0x44};
    after[10] = std::byte{0xFF};
    const Bytes encoded = checked_diff(before, after, {.full_ratio = 10});
    constexpr std::string_view kExpected(
        "WCDX\x01\x02\x00\x01"
        "\x0b\x00\x00\x00\x02\x00\x00\x00"
        "\x03\x00\x00\x00\x03\x00\x00\x00\x05\x00\x00\x00"
        "\x02\x20\x09\x11\x11\x44\x44\xff",
        36);
    CHECK(std::ranges::equal(encoded, std::as_bytes(std::span(kExpected))));
}

TEST_CASE("an encoding with a wrong field of its header is refused and writes nothing") {
    const Sample sample;
    const Bytes& good = sample.encoded;
    const auto refused = [&](const Bytes& encoded) { return verdict(encoded, sample.before); };
    CHECK_THAT(refused({}), Contains("size is 0, not at least 28"));
    CHECK_THAT(refused(Bytes(good.begin(), good.begin() + 27)), Contains("size is 27"));
    CHECK_THAT(refused(with(good, 0, 'w')), Contains("magic is not WCDX"));
    CHECK_THAT(refused(with(good, 4, '\2')), Contains("format is 2, not 1"));
    for (const int element_bytes : {0, 3, 5, 16, 128}) {
        CHECK_THAT(refused(with(good, 5, static_cast<std::uint8_t>(element_bytes))),
                   Contains("element_bytes is"));
    }
    CHECK_THAT(refused(with(good, 5, '\1')), Contains("tail_mask is 1, not less than 1"));
    CHECK_THAT(refused(with(good, 5, '\4')), Contains("values_stored_bytes is 7913, not 15825"));
    CHECK_THAT(refused(with(good, 6, '\4')), Contains("flags is 4, not at most 3"));
    CHECK_THAT(refused(with(good, 6, '\1')), Contains("positions_stored_bytes is 519, not less"));
    CHECK_THAT(refused(with(good, 6, '\2')), Contains("values_stored_bytes is 7913, not less"));
    CHECK_THAT(refused(with(good, 7, '\2')), Contains("tail_mask is 2, not less than 2"));
    CHECK_THAT(refused(with(good, 7, '\0')), Contains("values_stored_bytes is 7913, not 7912"));
    CHECK_THAT(refused(with(good, 8, 20'000U)), Contains("chunk_bytes is 20000, not 20001"));
    CHECK_THAT(refused(with(good, 8, ~0U)), Contains("chunk_bytes is 4294967295"));
    CHECK_THAT(refused(with(good, 12, 10'001U)), Contains("changed is 10001, not at most 10000"));
    CHECK_THAT(refused(with(good, 12, 3955U)), Contains("values_stored_bytes is 7913, not 7911"));
    CHECK_THAT(refused(with(good, 16, 5U)), Contains("positions_bytes is 5, not 6 to 1256"));
    CHECK_THAT(refused(with(good, 16, 1257U)), Contains("positions_bytes is 1257"));
    CHECK_THAT(refused(with(good, 16, 520U)), Contains("positions_stored_bytes is 519, not 520"));
    CHECK_THAT(refused(with(good, 20, ~0U)), Contains("positions_stored_bytes is 4294967295"));
    CHECK_THAT(refused(with(good, 24, ~0U)), Contains("values_stored_bytes is 4294967295"));
    Bytes longer = good;
    longer.push_back({});
    CHECK_THAT(refused(longer), Contains("size behind the header is 8433, not 8432"));
    CHECK_THAT(refused(Bytes(good.begin(), good.end() - 1)), Contains("is 8431, not 8432"));
}

TEST_CASE("an encoding for a chunk above the limit is refused") {
    Bytes header = with(Sample().encoded, 8, std::uint32_t{kChunkBytesMax + 1});
    CHECK_THAT(verdict(header, Bytes(kChunkBytesMax + 1)), Contains("at most 67108864"));
}

TEST_CASE("an encoding with wrong positions is refused and writes nothing") {
    const Sample sample;
    const Bytes& good = sample.encoded;
    const auto refused = [&](const Bytes& encoded) { return verdict(encoded, sample.before); };
    const auto head = [&](std::size_t block, unsigned value) {
        return refused(with(good, kPositionsAt + 2 * block, static_cast<std::uint16_t>(value)));
    };
    // Another number of positions; a kind that is none; one that takes more or fewer bytes.
    CHECK_THAT(head(0, 0x0001), Contains("block at element 4096 does not name 2147"));
    CHECK_THAT(head(1, 0x0000), Contains("512 bytes behind the positions, not 0"));
    CHECK_THAT(head(0, 0x1000), Contains("block at element 0 does not name"));
    CHECK_THAT(head(0, 0xF000), Contains("block at element 0 does not name"));
    CHECK_THAT(head(0, 0xE001), Contains("block at element 0 does not name"));
    CHECK_THAT(head(0, 0xCFFF), Contains("block at element 0 does not end within 519 bytes"));
    CHECK_THAT(head(1, 0xD800), Contains("block at element 4096 does not name 2048 of its 4096"));
    CHECK_THAT(head(2, 0xD000), Contains("block at element 8192 does not end within 519 bytes"));
    CHECK_THAT(head(2, 0x0000), Contains("changed is 3956, but the blocks have 2148"));
    // 0x80: a bit behind the one gap of seven bits.
    CHECK_THAT(refused(with(good, sample.payload_at, '\x80')), Contains("block at element 0"));
    CHECK_THAT(refused(with(good, sample.payload_at + 1, '\0')), Contains("block at element 4096"));
}

TEST_CASE("positions behind the last element are refused") {
    const Bytes before(100);
    Bytes after = before;
    after[98] = std::byte{1};
    const Bytes good = checked_diff(before, after, {.compress = false});
    CHECK(field<std::uint16_t>(good, kPositionsAt) == 0x6001);
    CHECK_THAT(verdict(with(good, kPositionsAt + 2, '\x32'), before),
               Contains("block at element 0 does not name 1 of its 50 elements"));
    // As a bitmap, with the bit of element 50 instead of that of element 49.
    Bytes bitmap = with(good, kPositionsAt, std::uint16_t{0xD001});
    bitmap.insert(bitmap.begin() + kPositionsAt + 2, 6, {});
    bitmap = with(with(bitmap, 16, 9U), 20, 9U);
    bitmap = with(bitmap, kPositionsAt + 8, '\2');
    CHECK(delta::apply(bitmap, after).has_value());
    bitmap = with(bitmap, kPositionsAt + 8, '\4');
    CHECK_THAT(verdict(bitmap, before), Contains("block at element 0 does not name 1 of its 50"));
}

TEST_CASE("parts that do not decompress to what the header says are refused") {
    Random random(9);
    const Bytes before(1 << 16);
    Bytes after = before;
    for (std::size_t i = 0; i < after.size(); i += 4) after[i] = std::byte{1};
    const Bytes good = checked_diff(before, after, {});
    REQUIRE(field<std::uint8_t>(good, 6) == 3);
    const auto positions_stored_bytes = field<std::uint32_t>(good, 20);
    CHECK_THAT(verdict(with(good, kPositionsAt, '\0'), before),
               Contains("positions are not 2064 bytes compressed with zstd"));
    CHECK_THAT(verdict(with(good, kPositionsAt + positions_stored_bytes, '\0'), before),
               Contains("values are not 32768 bytes compressed with zstd"));
    CHECK_THAT(verdict(with(good, 16, 2063U), before), Contains("positions are not 2063 bytes"));
    // A part that is cut short, and one that holds the positions instead.
    CHECK_THAT(
        verdict(with(Bytes(good.begin(), good.end() - 1), 24, field<std::uint32_t>(good, 24) - 1),
                before),
        Contains("values are not 32768 bytes"));
    const Bytes positions(good.begin() + kPositionsAt,
                          good.begin() + kPositionsAt + positions_stored_bytes);
    Bytes twice(good.begin(), good.begin() + kPositionsAt);
    twice.insert(twice.end(), positions.begin(), positions.end());
    twice.insert(twice.end(), positions.begin(), positions.end());
    CHECK_THAT(verdict(with(twice, 24, positions_stored_bytes), before),
               Contains("values are not 32768 bytes"));
}

}  // namespace
}  // namespace weightcast::delta
