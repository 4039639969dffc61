// Goal: what decodes can be used without further checks, and has this one encoding.
#include <algorithm>
#include <span>

#include "base/assert.h"
#include "model/manifest.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast::model;

std::string encoded(Manifest manifest, const LayoutOptions& options) {
    std::vector<std::uint64_t> sizes;
    for (const Artifact& artifact : manifest.artifacts) sizes.push_back(artifact.bytes);
    manifest.layout = Layout::make(options, sizes).value();
    manifest.chunk_digests.resize(manifest.layout.chunk_count());
    const auto bytes = encode_manifest(manifest);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Manifest small_model() {
    Manifest manifest;
    manifest.model = "org/small";
    manifest.version = 7;
    manifest.artifacts = {{"config.json", ArtifactKind::opaque, false, 10},
                          {"d/empty", ArtifactKind::opaque, true, 0},
                          {"d/model.safetensors", ArtifactKind::safetensors, false, 200'000}};
    manifest.tensors = {{"a", 2, 4096, 65536, Dtype::bf16, {128, 256}},
                        {"b", 2, 69632, 3, Dtype::f6_e2m3, {4}},
                        {"c", 2, 200'000, 0, Dtype::u8, {0, 5}}};
    return manifest;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    Manifest empty;
    empty.model = "m";
    return {encoded(small_model(), {.chunk_shift = 16, .chunks_per_bucket = 2}),
            encoded(small_model(), {}), encoded(empty, {})};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span input(reinterpret_cast<const std::byte*>(data), size);
    const auto decoded = decode_manifest(input);
    if (!decoded) return 0;
    const Manifest& manifest = decoded.value();
    WEIGHTCAST_ASSERT(std::ranges::equal(encode_manifest(manifest), input));
    manifest.root();
    std::vector<std::uint32_t> all;
    for (std::uint32_t i = 0; i < manifest.tensors.size(); ++i) {
        WEIGHTCAST_ASSERT(manifest.find_tensor(manifest.tensors[i].name) == i);
        all.push_back(i);
    }
    const auto chunks = chunks_of_tensors(manifest, all, true);
    WEIGHTCAST_ASSERT(std::ranges::is_sorted(chunks, std::ranges::less_equal()) ||
                      chunks.size() < 2);
    for (const std::uint32_t chunk : chunks) {
        const ArtifactRange range = manifest.layout.chunk_range(chunk);
        WEIGHTCAST_ASSERT(range.bytes > 0);
        WEIGHTCAST_ASSERT(range.offset + range.bytes <= manifest.artifacts[range.artifact].bytes);
    }
    return 0;
}
