// Goal: the encoding is the one of docs/wire.md, byte by byte, and nothing that breaks an invariant
// decodes. Method: the worked example of that page; one fault per test in an else good manifest.
#include "model/manifest.h"

#include <functional>

#include "base/hex.h"
#include "tests/kit/catch.h"

namespace weightcast::model {
namespace {

using Catch::Matchers::Contains;

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

void make_layout(Manifest& manifest, const LayoutOptions& options) {
    std::vector<std::uint64_t> sizes;
    for (const Artifact& artifact : manifest.artifacts) sizes.push_back(artifact.bytes);
    manifest.layout = Layout::make(options, sizes).value();
    manifest.chunk_digests.resize(manifest.layout.chunk_count());
}

// The worked example of docs/wire.md.
Manifest example() {
    Manifest manifest;
    manifest.model = "org/tiny";
    manifest.version = 3;
    manifest.artifacts = {{"config.json", ArtifactKind::opaque, false, 2},
                          {"w.safetensors", ArtifactKind::safetensors, false, 63}};
    manifest.tensors = {{"a", 1, 61, 2, Dtype::u8, {2}}};
    make_layout(manifest, {.chunk_shift = 16, .chunks_per_bucket = 2});
    const std::string json = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
    manifest.chunk_digests = {
        digest_chunk(bytes_of("{}")),
        digest_chunk(bytes_of(std::string("\x35\0\0\0\0\0\0\0", 8) + json + "\x01\x02"))};
    return manifest;
}

const std::string kExampleHex =
    "57434d46"
    "0100"
    "01"
    "10"
    "02000000"
    "02000000"
    "01000000"
    "02000000"
    "0300000000000000"
    "0800"
    "6f72672f74696e79"
    "0000"
    "0b00"
    "0200000000000000"
    "636f6e6669672e6a736f6e"
    "0100"
    "0d00"
    "3f00000000000000"
    "772e7361666574656e736f7273"
    "01"
    "01"
    "0100"
    "01000000"
    "3d00000000000000"
    "0200000000000000"
    "0200000000000000"
    "61"
    "7380cefc036234142da950ae666dd6fb"
    "509d20e0c7c5797f4b45e43595084439";

// A manifest with every kind of thing in it.
Manifest rich() {
    Manifest manifest;
    manifest.model = "org/rich";
    manifest.version = ~std::uint64_t{0};
    manifest.artifacts = {{"a", ArtifactKind::opaque, false, 0},
                          {"a-b", ArtifactKind::opaque, true, 70'000},
                          {"d/m.st", ArtifactKind::safetensors, false, 300'000},
                          {"d/n.st", ArtifactKind::safetensors, false, 100}};
    manifest.tensors = {{"", 2, 0, 8, Dtype::u64, {}},
                        {"w.0", 2, 65536, 131072, Dtype::bf16, {256, 256}},
                        {"w.1", 2, 196608, 3, Dtype::f6_e3m2, {2, 2}},
                        {"w.2", 2, 300'000, 0, Dtype::f32, {5, 0}},
                        {"x", 3, 90, 10, Dtype::i8, {10}}};
    make_layout(manifest, {.chunk_shift = 16, .chunks_per_bucket = 4});
    for (std::size_t i = 0; i < manifest.chunk_digests.size(); ++i) {
        manifest.chunk_digests[i].bytes[i] = std::byte{0xaa};
    }
    return manifest;
}

void check_equal(const Manifest& a, const Manifest& b) {
    CHECK(a.model == b.model);
    CHECK(a.version == b.version);
    CHECK(a.layout == b.layout);
    CHECK(a.chunk_digests == b.chunk_digests);
    REQUIRE(a.artifacts.size() == b.artifacts.size());
    for (std::size_t i = 0; i < a.artifacts.size(); ++i) {
        CHECK(a.artifacts[i].path == b.artifacts[i].path);
        CHECK(a.artifacts[i].kind == b.artifacts[i].kind);
        CHECK(a.artifacts[i].executable == b.artifacts[i].executable);
        CHECK(a.artifacts[i].bytes == b.artifacts[i].bytes);
    }
    REQUIRE(a.tensors.size() == b.tensors.size());
    for (std::size_t i = 0; i < a.tensors.size(); ++i) {
        CHECK(a.tensors[i].name == b.tensors[i].name);
        CHECK(a.tensors[i].artifact == b.tensors[i].artifact);
        CHECK(a.tensors[i].offset == b.tensors[i].offset);
        CHECK(a.tensors[i].bytes == b.tensors[i].bytes);
        CHECK(a.tensors[i].dtype == b.tensors[i].dtype);
        CHECK(a.tensors[i].shape == b.tensors[i].shape);
    }
}

// What both check_manifest and decode_manifest say of a manifest with one change.
void check_refused(const std::function<void(Manifest&)>& change, const std::string& because) {
    Manifest manifest = rich();
    change(manifest);
    const auto checked = check_manifest(manifest);
    CAPTURE(because);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == Code::invalid_input);
    CHECK_THAT(checked.error().message, Contains(because));
    const auto decoded = decode_manifest(encode_manifest(manifest));
    REQUIRE_FALSE(decoded);
    CHECK(decoded.error().code == Code::invalid_input);
}

TEST_CASE("the worked example encodes to the bytes of docs/wire.md and back") {
    const auto encoded = encode_manifest(example());
    CHECK(to_hex(encoded) == kExampleHex);
    const auto decoded = decode_manifest(*from_hex(kExampleHex));
    REQUIRE_OK(decoded);
    check_equal(decoded.value(), example());
    CHECK(to_string(sha256(encoded)) ==
          "8765c4ab2b1e8cb6d6fdd7c91865809231e866217c762b049bb64c3f37ef5380");
    CHECK(to_string(decoded.value().root()) == "4dcf464622b30de4a24c61cd1a70a563");
}

TEST_CASE("a manifest with everything in it survives") {
    REQUIRE_OK(check_manifest(rich()));
    const auto encoded = encode_manifest(rich());
    const auto decoded = decode_manifest(encoded);
    REQUIRE_OK(decoded);
    check_equal(decoded.value(), rich());
    CHECK(encode_manifest(decoded.value()) == encoded);
    Manifest empty;
    empty.model = "m";
    REQUIRE_OK(decode_manifest(encode_manifest(empty)));
}

TEST_CASE("the root is the digest of the buckets' digests") {
    const Manifest manifest = rich();
    REQUIRE(manifest.layout.bucket_count() == 2);
    const std::span<const Digest> chunks = manifest.chunk_digests;
    const std::vector<Digest> buckets{digest_of_digests(chunks.first(4)),
                                      digest_of_digests(chunks.subspan(4))};
    CHECK(manifest.root() == digest_of_digests(buckets));
    CHECK(Manifest().root() == digest_of_digests({}));
}

TEST_CASE("a manifest cut short anywhere, or longer, is refused") {
    auto encoded = encode_manifest(rich());
    for (std::size_t bytes = 0; bytes < encoded.size(); ++bytes) {
        CAPTURE(bytes);
        CHECK_FALSE(decode_manifest(std::span(encoded).first(bytes)));
    }
    encoded.push_back(std::byte{0});
    const auto longer = decode_manifest(encoded);
    REQUIRE_FALSE(longer);
    CHECK_THAT(longer.error().message, Contains("1 bytes after its end"));
}

TEST_CASE("a changed byte of an encoding is refused or changes the manifest's name") {
    const auto encoded = encode_manifest(rich());
    for (std::size_t at = 0; at < encoded.size(); ++at) {
        auto changed = encoded;
        changed[at] ^= std::byte{0x81};
        const auto decoded = decode_manifest(changed);
        CAPTURE(at);
        if (decoded) CHECK(encode_manifest(decoded.value()) == changed);
    }
}

TEST_CASE("counts that the input cannot hold are refused before memory is taken") {
    for (const std::size_t field : {12U, 16U, 20U}) {
        auto encoded = encode_manifest(rich());
        for (std::size_t i = 0; i < 4; ++i) encoded[field + i] = std::byte{0xff};
        CHECK_FALSE(decode_manifest(encoded));
        ManifestLimits limits;
        limits.artifacts_max = limits.tensors_max = 0xffffffff;
        const auto decoded = decode_manifest(encoded, limits);
        REQUIRE_FALSE(decoded);
        CHECK_THAT(decoded.error().message, Contains("ends in its"));
    }
}

TEST_CASE("head fields out of range are refused") {
    const auto refused = [](std::size_t at, unsigned value) {
        auto encoded = encode_manifest(rich());
        encoded[at] = static_cast<std::byte>(value);
        const auto decoded = decode_manifest(encoded);
        return decoded ? std::string("accepted") : decoded.error().message;
    };
    CHECK_THAT(refused(0, 'X'), Contains("magic"));
    CHECK_THAT(refused(4, 2), Contains("format 2"));
    CHECK_THAT(refused(6, 0), Contains("algorithm"));
    CHECK_THAT(refused(7, 15), Contains("chunk_shift"));
    CHECK_THAT(refused(7, 25), Contains("chunk_shift"));
    CHECK_THAT(refused(8, 3), Contains("chunks_per_bucket"));
    // The first artifact's kind and flags follow the model's name.
    CHECK_THAT(refused(34 + 8, 2), Contains("unknown kind"));
    CHECK_THAT(refused(34 + 8 + 1, 2), Contains("unknown flags"));
}

TEST_CASE("limits of a manifest are errors that carry their name") {
    const auto encoded = encode_manifest(rich());
    const auto refused = [&](const ManifestLimits& limits) {
        const auto decoded = decode_manifest(encoded, limits);
        return decoded ? std::string("accepted") : decoded.error().message;
    };
    CHECK(refused({}) == "accepted");
    CHECK_THAT(refused({.encoded_bytes_max = encoded.size() - 1}), Contains("encoded_bytes_max"));
    CHECK_THAT(refused({.artifacts_max = 3}), Contains("artifacts_max"));
    CHECK_THAT(refused({.tensors_max = 4}), Contains("tensors_max"));
    CHECK_FALSE(check_manifest(rich(), {.artifacts_max = 3}));
    CHECK_FALSE(check_manifest(rich(), {.tensors_max = 4}));
}

TEST_CASE("artifacts out of order, twice, or inside another are refused") {
    check_refused([](Manifest& m) { m.model = "/m"; }, "empty or starts with");
    check_refused([](Manifest& m) { m.artifacts[1].path = "a"; }, "out of order");
    check_refused([](Manifest& m) { m.artifacts[0].path = "b"; }, "out of order");
    check_refused([](Manifest& m) { m.artifacts[0].path = "../a"; }, "component . or ..");
    // "a-b" stands between "a" and "a/b" in order.
    check_refused([](Manifest& m) { m.artifacts[2].path = "a/b"; },
                  "artifact 'a' is also a directory of 'a/b'");
    check_refused([](Manifest& m) { m.artifacts[3].path = "d/m.st/x"; }, "also a directory");
    check_refused([](Manifest& m) { m.artifacts[1].bytes += 1'000'000; }, "layout");
    check_refused([](Manifest& m) { m.artifacts[2].kind = ArtifactKind::opaque; },
                  "not a safetensors artifact");
    Manifest alike = rich();
    alike.artifacts[2].path = "ab/c";
    REQUIRE_OK(check_manifest(alike));
}

TEST_CASE("tensors outside their artifact, out of order or of a wrong size are refused") {
    check_refused([](Manifest& m) { m.tensors[0].name = "w.0"; }, "out of order or occurs twice");
    check_refused([](Manifest& m) { std::swap(m.tensors[1].name, m.tensors[2].name); }, "order");
    check_refused([](Manifest& m) { m.tensors[4].artifact = 4; }, "which does not exist");
    check_refused([](Manifest& m) { m.tensors[4].offset = 91; }, "ends behind the end");
    check_refused([](Manifest& m) { m.tensors[4].offset = ~0ULL; }, "ends behind the end");
    check_refused([](Manifest& m) { m.tensors[3].offset = 300'001; }, "ends behind the end");
    check_refused([](Manifest& m) { m.tensors[4].bytes = 9; }, "dtype and shape give 10");
    check_refused([](Manifest& m) { m.tensors[4].dtype = Dtype::i16; }, "dtype and shape give 20");
    check_refused([](Manifest& m) { m.tensors[2].shape = {3}; }, "whole number of bytes");
    check_refused([](Manifest& m) { m.tensors[4].shape = {~0ULL, ~0ULL}; }, "2^64");
    check_refused([](Manifest& m) { m.tensors[4].shape.assign(65, 1); }, "64 dimensions");
    check_refused([](Manifest& m) { m.tensors[4].name = std::string("x\0y", 3); }, "NUL");
    check_refused([](Manifest& m) { m.tensors[4].name.assign(4097, 'x'); }, "4096");
    check_refused([](Manifest& m) { m.tensors[4].dtype = static_cast<Dtype>(22); }, "dtype");
}

TEST_CASE("digests must be as many as chunks") {
    Manifest manifest = rich();
    manifest.chunk_digests.pop_back();
    CHECK_FALSE(check_manifest(manifest));
    auto encoded = encode_manifest(rich());
    encoded[20] = static_cast<std::byte>(manifest.chunk_digests.size());
    encoded.resize(encoded.size() - 16);
    const auto decoded = decode_manifest(encoded);
    REQUIRE_FALSE(decoded);
    CHECK_THAT(decoded.error().message, Contains("chunk digests for"));
}

TEST_CASE("tensors are found by name") {
    const Manifest manifest = rich();
    CHECK(manifest.find_tensor("") == 0);
    CHECK(manifest.find_tensor("w.1") == 2);
    CHECK(manifest.find_tensor("x") == 4);
    for (const std::string name : {"w", "w.", "w.3", "z", "A"}) {
        CHECK(manifest.find_tensor(name) == -1);
    }
}

TEST_CASE("chunks of tensors are those that hold their bytes, once each") {
    const Manifest manifest = rich();  // chunks: a-b has 0 and 1, d/m.st 2 to 6, d/n.st 7
    using Chunks = std::vector<std::uint32_t>;
    const auto chunks = [&](const Chunks& tensors, bool with_opaque) {
        return chunks_of_tensors(manifest, tensors, with_opaque);
    };
    CHECK(manifest.layout.chunk_count() == 8);
    CHECK(chunks({}, false).empty());
    CHECK(chunks({}, true) == Chunks{0, 1});
    CHECK(chunks({0}, false) == Chunks{2});
    CHECK(chunks({1}, false) == Chunks{3, 4});
    CHECK(chunks({3}, false).empty());
    CHECK(chunks({4, 1, 1, 0}, true) == Chunks{0, 1, 2, 3, 4, 7});
}

TEST_CASE("artifact paths stay inside their directory") {
    for (const std::string path :
         {"a", "a/b", "a.b/..c", "...", ".weight", "d/.weightcast", "a b", "\xc3\xa9"}) {
        CAPTURE(path);
        CHECK(check_artifact_path(path));
    }
    for (const std::string path : {"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b",
                                   "a\\b", ".weightcast", ".weightcast/x", ".weightcast-tmp"}) {
        CAPTURE(path);
        CHECK_FALSE(check_artifact_path(path));
    }
    CHECK_FALSE(check_artifact_path(std::string_view("a\0b", 3)));
    CHECK(check_artifact_path(std::string(255, 'a')));
    CHECK_FALSE(check_artifact_path(std::string(256, 'a')));
    std::string path;
    for (int i = 0; i < 512; ++i) path += "a/";
    CHECK(check_artifact_path(path + std::string()).has_value() == false);
    path.pop_back();
    CHECK(check_artifact_path(path));
    CHECK_FALSE(check_artifact_path(path + "ab"));
}

TEST_CASE("names are of the allowed characters") {
    for (const std::string name : {"m", "Qwen2.5-7B_x", "0", "_"}) {
        CAPTURE(name);
        CHECK(check_plain_name(name));
        CHECK(check_model_name(name));
        CHECK(check_model_name("org/" + name));
        CHECK_FALSE(check_plain_name("org/" + name));
    }
    for (const std::string name :
         {"", ".", "..", "-m", ".m", "m ", "m@1", "m:x", "\xc3\xa9", "m\n"}) {
        CAPTURE(name);
        CHECK_FALSE(check_plain_name(name));
        CHECK_FALSE(check_model_name(name));
        CHECK_FALSE(check_model_name("org/" + name));
    }
    for (const std::string name : {"/m", "m/", "a//b", "/"}) CHECK_FALSE(check_model_name(name));
    CHECK(check_plain_name(std::string(200, 'a')));
    CHECK_FALSE(check_plain_name(std::string(201, 'a')));
}

}  // namespace
}  // namespace weightcast::model
