// The manifest: artifacts, tensor index and digests of one version. Immutable; named by the SHA-256
// of its encoding (docs/wire.md, "Manifest"). All functions: reentrant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/digest.h"
#include "model/dtype.h"
#include "model/layout.h"
#include "weightcast/result.h"

namespace weightcast::model {

// Values are part of the encoding.
enum class ArtifactKind : std::uint8_t { opaque = 0, safetensors = 1 };
enum class DigestAlgorithm : std::uint8_t { xxh3_leaf16k = 1 };

struct Artifact {
    std::string path;  // relative, '/'-separated, checked by check_artifact_path
    ArtifactKind kind = ArtifactKind::opaque;
    bool executable = false;
    std::uint64_t bytes = 0;
};

struct TensorRecord {
    std::string name;
    std::uint32_t artifact = 0;
    std::uint64_t offset = 0;  // from the artifact's first byte
    std::uint64_t bytes = 0;
    Dtype dtype = Dtype::u8;
    std::vector<std::uint64_t> shape;
};

struct Manifest {
    std::string model;
    std::uint64_t version = 0;
    DigestAlgorithm algorithm = DigestAlgorithm::xxh3_leaf16k;
    std::vector<Artifact> artifacts;    // by ascending path
    std::vector<TensorRecord> tensors;  // by ascending name
    Layout layout;                      // of the artifacts' sizes
    std::vector<Digest> chunk_digests;  // layout.chunk_count() of them

    // Over all chunk digests, by way of the buckets.
    Digest root() const;
    // Index of a tensor, or -1. Binary search.
    std::int64_t find_tensor(std::string_view name) const;
};

struct ManifestLimits {
    std::uint64_t encoded_bytes_max = 256ULL << 20U;
    std::uint32_t artifacts_max = 1'000'000;
    std::uint32_t tensors_max = 4'000'000;
};

inline constexpr std::size_t kTensorNameBytesMax = 4096;
inline constexpr std::size_t kDimensionsMax = 64;

// Checks every invariant of the struct: names, order, uniqueness, no artifact inside another one's
// path, every tensor inside a safetensors artifact and of the size that its dtype and shape give,
// the layout made from the artifacts' sizes, one digest for each chunk.
// Errors: invalid_input, naming the field and the limit.
Result<void> check_manifest(const Manifest& manifest, const ManifestLimits& limits = {});

// The one encoding of a manifest. REQUIRES: check_manifest(manifest) succeeds
std::vector<std::byte> encode_manifest(const Manifest& manifest);

// Does what check_manifest does, so what it returns can be trusted as far as its name. Allocates
// no more than a small multiple of the input.
// Errors: invalid_input, naming the field and the limit.
Result<Manifest> decode_manifest(std::span<const std::byte> bytes,
                                 const ManifestLimits& limits = {});

// A path that stays inside the directory it is resolved in: relative, no empty, "." or ".."
// component, no NUL or backslash, at most 1024 bytes and 255 per component, and its first component
// does not start with ".weightcast" (that name is ours). Errors: invalid_input.
Result<void> check_artifact_path(std::string_view path);

// A name of a model, peer or channel: 1 to 200 of A-Z a-z 0-9 . _ - , not starting with '.' or '-';
// a model's may contain '/' between such parts. Errors: invalid_input.
Result<void> check_model_name(std::string_view name);
Result<void> check_plain_name(std::string_view name);

// Chunks that cover the given tensors (and all chunks of opaque artifacts if `with_opaque`).
// Ascending, without duplicates.
std::vector<std::uint32_t> chunks_of_tensors(const Manifest& manifest,
                                             std::span<const std::uint32_t> tensors,
                                             bool with_opaque);

}  // namespace weightcast::model
