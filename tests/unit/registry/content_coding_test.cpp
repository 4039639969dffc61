// Goal: what is compressed comes back as it was, and no body of a stranger takes more memory than
// it may. Method: bodies of all kinds there and back, and broken ones.
#include "registry/content_coding.h"

#include <string>

#include "base/random.h"
#include "tests/kit/catch.h"

namespace weightcast::registry {
namespace {

constexpr std::uint64_t kLimit = 1U << 20U;

std::string repeated(const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
}

TEST_CASE("content coding: only named without a quality is it taken") {
    for (const char* yes : {"zstd", "gzip, zstd", "zstd,br", " zstd ", "gzip;q=1, zstd\t"}) {
        INFO(yes);
        CHECK(takes_zstd(yes));
    }
    for (const char* no : {"", "gzip", "zstd;q=0", "xzstd", "zstd2", "*", ",", ",,"}) {
        INFO(no);
        CHECK_FALSE(takes_zstd(no));
    }
}

TEST_CASE("content coding: a body comes back, and is left alone where it would not shrink") {
    Compressor compressor;
    Decompressor decompressor;
    const std::string text = repeated("{\"peer\":1,\"name\":\"h0\"}", 100);
    std::string body = text;
    REQUIRE(compress_body(compressor, body));
    CHECK(body.size() < text.size() / 10);
    REQUIRE(decompress_body(decompressor, body, kLimit));
    CHECK(body == text);
    std::string small = text.substr(0, 500);
    CHECK_FALSE(compress_body(compressor, small));
    Random random(1);
    std::string noise(5000, '\0');
    for (char& byte : noise) byte = static_cast<char>(random.next());
    const std::string before = noise;
    CHECK_FALSE(compress_body(compressor, noise));
    CHECK(noise == before);
}

TEST_CASE("content coding: what is broken, or too large, is refused") {
    Compressor compressor;
    Decompressor decompressor;
    std::string body = repeated("abcdefgh", 1000);
    REQUIRE(compress_body(compressor, body));
    const auto undo = [&](std::string text, std::uint64_t limit) {
        return decompress_body(decompressor, text, limit);
    };
    CHECK(undo(body, 8000));
    CHECK_FALSE(undo(body, 7999));
    CHECK_FALSE(undo("", kLimit));
    CHECK_FALSE(undo("not compressed at all", kLimit));
    for (std::size_t bytes = 0; bytes < body.size(); ++bytes) {
        CHECK_FALSE(undo(body.substr(0, bytes), kLimit));
    }
    for (std::size_t at = 0; at < body.size(); ++at) {
        std::string changed = body;
        changed[at] = static_cast<char>(changed[at] ^ 0x5a);
        static_cast<void>(undo(changed, kLimit));
    }
}

}  // namespace
}  // namespace weightcast::registry
