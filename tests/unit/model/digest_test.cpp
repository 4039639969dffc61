// Goal: the digest tree never drifts. Method: the expected values were computed from docs/wire.md
// by a program that shares no code with the library and uses xxHash's scalar code.
#include "model/digest.h"

#include <algorithm>
#include <map>

#include "base/random.h"
#include "tests/kit/catch.h"

namespace weightcast::model {
namespace {

std::vector<std::byte> pattern(std::size_t bytes) {
    std::vector<std::byte> data(bytes);
    for (std::size_t i = 0; i < bytes; ++i) {
        data[i] = static_cast<std::byte>((i * 131 + (i >> 8U) * 17 + 7) & 255U);
    }
    return data;
}

const std::map<std::size_t, std::string> kGolden{
    {0, "99aa06d3014798d86001c324468d497f"},       {1, "c80bfda859fd038ba1bfe7655320cbc4"},
    {16383, "6663be10e7a9337c57efc86ecf87ba1c"},   {16384, "7c3a6b97f5bc2f5c91173d77da015201"},
    {16385, "44a8c43705809fc31e475c76cdc2b6b5"},   {65536, "0370c98f32e1912ab540092baee157a3"},
    {1048576, "d80df5dd43dbd0f131165cefa2b71506"}, {1048577, "c63afeef0a9128e85a11e66e3bce21c6"},
    {3000000, "d9f9be94efe36804992fbbb55dd33cdc"},
};

TEST_CASE("a chunk's digest is the specified one") {
    for (const auto& [bytes, expected] : kGolden) {
        CAPTURE(bytes);
        CHECK(to_string(digest_chunk(pattern(bytes))) == expected);
    }
}

TEST_CASE("a chunk in pieces has the digest of the whole, however it is cut") {
    Random random(42);
    ChunkHasher hasher;
    for (const auto& [bytes, expected] : kGolden) {
        const auto data = pattern(bytes);
        for (const std::size_t piece_max : {1000UL, 16384UL, 40000UL, 5000000UL}) {
            CAPTURE(bytes, piece_max);
            for (std::span<const std::byte> left = data; !left.empty();) {
                const std::size_t piece =
                    std::min<std::size_t>(left.size(), random.below(piece_max + 1));
                hasher.update(left.first(piece));
                left = left.subspan(piece);
            }
            CHECK(to_string(hasher.finish()) == expected);
        }
    }
}

TEST_CASE("a digest of digests is the specified one") {
    const std::vector<Digest> digests{digest_chunk(pattern(1)), digest_chunk(pattern(16384)),
                                      digest_chunk(pattern(65536))};
    CHECK(to_string(digest_of_digests(digests)) == "c5fe786bffc1de39821e002d7e57505e");
    CHECK(to_string(digest_of_digests({})) == "99aa06d3014798d86001c324468d497f");
}

TEST_CASE("one flipped bit anywhere changes a chunk's digest") {
    auto data = pattern(65536 + 5);
    const Digest before = digest_chunk(data);
    for (std::size_t at = 0; at < data.size(); at += 997) {
        data[at] ^= std::byte{0x10};
        CHECK(digest_chunk(data) != before);
        data[at] ^= std::byte{0x10};
    }
    CHECK(digest_chunk(data) == before);
}

TEST_CASE("SHA-256 is that of FIPS 180-4") {
    const std::string_view text = "abc";
    CHECK(to_string(sha256(std::as_bytes(std::span(text)))) ==
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(to_string(sha256({})) ==
          "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_CASE("digests are read back from text, and only from their own form") {
    const Digest digest = digest_chunk(pattern(10));
    REQUIRE_OK(parse_digest(to_string(digest)));
    CHECK(parse_digest(to_string(digest)).value() == digest);
    const Sha256 sha = sha256(pattern(10));
    REQUIRE_OK(parse_sha256(to_string(sha)));
    CHECK(parse_sha256(to_string(sha)).value() == sha);
    for (const std::string& text :
         {std::string(), std::string(31, '0'), std::string(33, '0'), std::string(34, '0'),
          std::string(32, 'A'), std::string(32, 'g'), std::string(64, '0')}) {
        CAPTURE(text);
        REQUIRE_FALSE(parse_digest(text));
        CHECK(parse_digest(text).error().code == Code::invalid_input);
    }
    CHECK_FALSE(parse_sha256(to_string(digest)));
}

}  // namespace
}  // namespace weightcast::model
