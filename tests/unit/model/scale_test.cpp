// Goal: a version of 1 TB with 100,000 tensors has a manifest that fits in memory many times over.
// Method: sparse, no payload; the process's peak memory is asserted, times are only printed.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>

#include "base/clock.h"
#include "base/random.h"
#include "model/manifest.h"
#include "model/safetensors.h"
#include "tests/kit/catch.h"

namespace weightcast::model {
namespace {

constexpr std::uint32_t kTensors = 100'000;
constexpr std::uint32_t kArtifacts = 200;
constexpr std::uint64_t kTensorBytes = 10'995'116;  // 100,000 of them are 1 TiB

// A sanitizer's shadow memory counts as the process's: then the bound is five times as high.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WEIGHTCAST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WEIGHTCAST_SANITIZED 1
#endif
#endif
#ifdef WEIGHTCAST_SANITIZED
constexpr long kGrowthMaxKib = 1500 * 1024;
#else
constexpr long kGrowthMaxKib = 300 * 1024;
#endif

long peak_kib() {
    rusage usage{};
    REQUIRE(::getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss;
}

class Stopwatch {
  public:
    explicit Stopwatch(const char* what) : what_(what) {}
    ~Stopwatch() { std::printf("%s: %.3f s\n", what_, seconds(system_clock().now() - start_)); }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

  private:
    const char* what_;
    TimePoint start_ = system_clock().now();
};

std::string numbered(const char* format, std::uint32_t number) {
    char text[128];
    std::snprintf(text, sizeof text, format, number);
    return text;
}

Manifest terabyte() {
    Manifest manifest;
    manifest.model = "org/terabyte";
    manifest.version = 1;
    const std::uint64_t per_artifact = kTensors / kArtifacts;
    std::vector<std::uint64_t> sizes(kArtifacts, per_artifact * kTensorBytes + 4096);
    for (std::uint32_t i = 0; i < kArtifacts; ++i) {
        manifest.artifacts.push_back({numbered("model-%05u-of-00200.safetensors", i),
                                      ArtifactKind::safetensors, false, sizes[i]});
    }
    for (std::uint32_t i = 0; i < kTensors; ++i) {
        manifest.tensors.push_back({numbered("model.layers.%06u.mlp.experts.down_proj.weight", i),
                                    static_cast<std::uint32_t>(i / per_artifact),
                                    4096 + i % per_artifact * kTensorBytes,
                                    kTensorBytes,
                                    Dtype::u8,
                                    {4, kTensorBytes / 4}});
    }
    manifest.layout = Layout::make({}, sizes).value();
    manifest.chunk_digests.resize(manifest.layout.chunk_count());
    Random random(1);
    for (Digest& digest : manifest.chunk_digests) {
        const std::uint64_t words[2] = {random.next(), random.next()};
        const auto bytes = std::as_bytes(std::span(words));
        std::copy(bytes.begin(), bytes.end(), digest.bytes.begin());
    }
    return manifest;
}

TEST_CASE("a manifest of 1 TB and 100,000 tensors encodes and decodes in bounded memory") {
    const long before_kib = peak_kib();
    const Manifest manifest = terabyte();
    REQUIRE(manifest.layout.total_bytes() > 1'000'000'000'000);
    REQUIRE(manifest.chunk_digests.size() > 1'000'000);
    std::vector<std::byte> encoded;
    {
        const Stopwatch stopwatch("encode");
        encoded = encode_manifest(manifest);
    }
    {
        const Stopwatch stopwatch("decode");
        const auto decoded = decode_manifest(encoded);
        REQUIRE_OK(decoded);
        CHECK(decoded.value().root() == manifest.root());
        CHECK(decoded.value().tensors.back().name == manifest.tensors.back().name);
        std::vector<std::uint32_t> all(kTensors);
        for (std::uint32_t i = 0; i < kTensors; ++i) all[i] = i;
        CHECK(chunks_of_tensors(decoded.value(), all, false).size() ==
              manifest.layout.chunk_count());
    }
    std::printf("encoded: %zu bytes, peak memory grew by %ld KiB\n", encoded.size(),
                peak_kib() - before_kib);
    CHECK(peak_kib() - before_kib < kGrowthMaxKib);
}

TEST_CASE("a header of 100,000 tensors is written and parsed in bounded memory") {
    const long before_kib = peak_kib();
    std::vector<TensorEntry> tensors;
    for (std::uint32_t i = 0; i < kTensors; ++i) {
        tensors.push_back({numbered("model.layers.%06u.mlp.experts.down_proj.weight", i),
                           Dtype::u8,
                           {4, kTensorBytes / 4},
                           0,
                           kTensorBytes});
    }
    std::vector<std::byte> written;
    {
        const Stopwatch stopwatch("write header");
        auto result = write_safetensors_header(tensors, {});
        REQUIRE_OK(result);
        written = std::move(result).value();
    }
    {
        const Stopwatch stopwatch("parse header");
        const std::string_view json(reinterpret_cast<const char*>(written.data()) + 8,
                                    written.size() - 8);
        const auto header =
            parse_safetensors_header(json, written.size() + kTensors * kTensorBytes);
        REQUIRE_OK(header);
        CHECK(header.value().tensors.size() == kTensors);
    }
    CHECK(peak_kib() - before_kib < kGrowthMaxKib);
}

TEST_CASE("the most hostile header of the largest size is refused in bounded memory") {
    // As many tensors as 100 MB of text can name, each with the same name.
    const std::string one = R"("":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
    const long before_kib = peak_kib();
    std::string json = "{";
    json.reserve(100'000'000);
    while (json.size() + one.size() < 100'000'000) json += one;
    json.back() = '}';
    {
        const Stopwatch stopwatch("refuse 100 MB of duplicates");
        const auto header = parse_safetensors_header(json, 8 + json.size());
        REQUIRE_FALSE(header);
        CHECK(header.error().message == "tensor '' occurs twice");
    }
    // The text itself, a growing vector of entries, and their shapes.
    CHECK(peak_kib() - before_kib < 1024 * 1024);
}

}  // namespace
}  // namespace weightcast::model
