// The encoding of a manifest; docs/wire.md specifies it byte by byte.
#include <algorithm>
#include <concepts>
#include <limits>
#include <optional>

#include "base/assert.h"
#include "model/manifest.h"

namespace weightcast::model {
namespace {

constexpr std::string_view kMagic = "WCMF";
constexpr std::uint16_t kFormatVersion = 1;
constexpr std::size_t kFixedBytes = 34;
constexpr std::size_t kArtifactBytesMin = 12;
constexpr std::size_t kTensorBytesMin = 24;
constexpr std::uint8_t kFlagExecutable = 1;

class Writer {
  public:
    explicit Writer(std::size_t bytes) { out_.reserve(bytes); }
    template <std::unsigned_integral T>
    void put(T value) {
        for (std::size_t i = 0; i < sizeof(T); ++i) {
            out_.push_back(static_cast<std::byte>(value >> (8 * i) & 0xffU));
        }
    }
    // A length or count in the width of its field.
    template <std::unsigned_integral T>
    void put_count(std::size_t value) {
        WEIGHTCAST_ASSERT(value <= std::numeric_limits<T>::max());
        put(static_cast<T>(value));
    }
    void put_text(std::string_view text) {
        const auto* first = reinterpret_cast<const std::byte*>(text.data());
        out_.insert(out_.end(), first, first + text.size());
    }
    void put_digests(std::span<const Digest> digests) {
        const auto bytes = std::as_bytes(digests);
        out_.insert(out_.end(), bytes.begin(), bytes.end());
    }
    std::vector<std::byte> take() { return std::move(out_); }

  private:
    std::vector<std::byte> out_;
};

// Reads fields; once one does not fit what is left, all reads give zeros and ok() is false.
class Reader {
  public:
    explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

    bool ok() const { return ok_; }
    std::size_t left() const { return left_.size(); }

    std::span<const std::byte> take(std::size_t bytes) {
        if (bytes > left_.size()) {
            ok_ = false;
            left_ = {};
            return {};
        }
        const auto taken = left_.first(bytes);
        left_ = left_.subspan(bytes);
        return taken;
    }
    template <std::unsigned_integral T>
    T get() {
        const auto bytes = take(sizeof(T));
        std::uint64_t value = 0;
        for (std::size_t i = bytes.size(); i-- > 0;) {
            value = value << 8U | std::to_integer<std::uint64_t>(bytes[i]);
        }
        return static_cast<T>(value);
    }
    std::string text(std::size_t bytes) {
        const auto taken = take(bytes);
        return {reinterpret_cast<const char*>(taken.data()), taken.size()};
    }

  private:
    std::span<const std::byte> left_;
    bool ok_ = true;
};

struct Counts {
    std::uint32_t artifacts = 0;
    std::uint32_t tensors = 0;
    std::uint32_t chunks = 0;
    LayoutOptions options;
};

std::size_t encoded_bytes(const Manifest& manifest) {
    std::size_t bytes = kFixedBytes + manifest.model.size();
    for (const Artifact& artifact : manifest.artifacts) {
        bytes += kArtifactBytesMin + artifact.path.size();
    }
    for (const TensorRecord& tensor : manifest.tensors) {
        bytes += kTensorBytesMin + 8 * tensor.shape.size() + tensor.name.size();
    }
    return bytes + sizeof(Digest) * manifest.chunk_digests.size();
}

Error cut_short(std::string_view where) {
    return invalid_input("the manifest ends in its " + std::string(where));
}

// A count can only be believed if that many records fit into what is left.
Result<void> check_count(std::string_view what, std::uint32_t count, std::uint64_t limit,
                         std::size_t record_bytes_min, const Reader& in) {
    if (count > limit) {
        return invalid_input("the manifest has " + std::to_string(count) + " " + std::string(what) +
                             ", more than " + std::to_string(limit) + " (" + std::string(what) +
                             "_max)");
    }
    if (count > in.left() / record_bytes_min) return cut_short(what);
    return success();
}

Result<Counts> read_head(Reader& in, Manifest& manifest) {
    if (in.text(kMagic.size()) != kMagic) return invalid_input("this is not a manifest (magic)");
    const auto format = in.get<std::uint16_t>();
    if (in.ok() && format != kFormatVersion) {
        return invalid_input("the manifest has format " + std::to_string(format) + ", not " +
                             std::to_string(kFormatVersion));
    }
    manifest.algorithm = static_cast<DigestAlgorithm>(in.get<std::uint8_t>());
    Counts counts;
    counts.options.chunk_shift = in.get<std::uint8_t>();
    counts.options.chunks_per_bucket = in.get<std::uint32_t>();
    counts.artifacts = in.get<std::uint32_t>();
    counts.tensors = in.get<std::uint32_t>();
    counts.chunks = in.get<std::uint32_t>();
    manifest.version = in.get<std::uint64_t>();
    manifest.model = in.text(in.get<std::uint16_t>());
    if (!in.ok()) return cut_short("head");
    return counts;
}

Result<void> read_artifacts(Reader& in, std::uint32_t count, Manifest& manifest) {
    manifest.artifacts.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        Artifact& artifact = manifest.artifacts.emplace_back();
        artifact.kind = static_cast<ArtifactKind>(in.get<std::uint8_t>());
        const auto flags = in.get<std::uint8_t>();
        const auto path_bytes = in.get<std::uint16_t>();
        artifact.bytes = in.get<std::uint64_t>();
        artifact.path = in.text(path_bytes);
        if (!in.ok()) return cut_short("artifacts");
        if ((flags & ~kFlagExecutable) != 0) {
            return invalid_input("artifact " + std::to_string(i) + " has unknown flags");
        }
        artifact.executable = flags != 0;
    }
    return success();
}

Result<void> read_tensors(Reader& in, std::uint32_t count, Manifest& manifest) {
    manifest.tensors.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        TensorRecord& tensor = manifest.tensors.emplace_back();
        const auto dtype = dtype_from_value(in.get<std::uint8_t>());
        const auto dimensions = in.get<std::uint8_t>();
        const auto name_bytes = in.get<std::uint16_t>();
        tensor.artifact = in.get<std::uint32_t>();
        tensor.offset = in.get<std::uint64_t>();
        tensor.bytes = in.get<std::uint64_t>();
        if (dimensions * sizeof(std::uint64_t) > in.left()) return cut_short("tensors");
        tensor.shape.resize(dimensions);
        for (std::uint64_t& dimension : tensor.shape) dimension = in.get<std::uint64_t>();
        tensor.name = in.text(name_bytes);
        if (!in.ok()) return cut_short("tensors");
        if (!dtype) return invalid_input("tensor " + std::to_string(i) + " is of unknown dtype");
        tensor.dtype = *dtype;
    }
    return success();
}

Result<void> read_digests(Reader& in, std::uint32_t count, Manifest& manifest) {
    const auto bytes = in.take(std::size_t{count} * sizeof(Digest));
    if (!in.ok()) return cut_short("chunk digests");
    manifest.chunk_digests.resize(count);
    const auto out = std::as_writable_bytes(std::span(manifest.chunk_digests));
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return success();
}

Result<Layout> make_layout(const Manifest& manifest, const Counts& counts) {
    std::vector<std::uint64_t> sizes;
    sizes.reserve(manifest.artifacts.size());
    for (const Artifact& artifact : manifest.artifacts) sizes.push_back(artifact.bytes);
    return Layout::make(counts.options, sizes);
}

}  // namespace

std::vector<std::byte> encode_manifest(const Manifest& manifest) {
    const LayoutOptions& options = manifest.layout.options();
    WEIGHTCAST_ASSERT(manifest.chunk_digests.size() == manifest.layout.chunk_count());
    Writer out(encoded_bytes(manifest));
    out.put_text(kMagic);
    out.put(kFormatVersion);
    out.put(static_cast<std::uint8_t>(manifest.algorithm));
    out.put_count<std::uint8_t>(options.chunk_shift);
    out.put(options.chunks_per_bucket);
    out.put_count<std::uint32_t>(manifest.artifacts.size());
    out.put_count<std::uint32_t>(manifest.tensors.size());
    out.put_count<std::uint32_t>(manifest.chunk_digests.size());
    out.put(manifest.version);
    out.put_count<std::uint16_t>(manifest.model.size());
    out.put_text(manifest.model);
    for (const Artifact& artifact : manifest.artifacts) {
        out.put(static_cast<std::uint8_t>(artifact.kind));
        out.put(artifact.executable ? kFlagExecutable : std::uint8_t{0});
        out.put_count<std::uint16_t>(artifact.path.size());
        out.put(artifact.bytes);
        out.put_text(artifact.path);
    }
    for (const TensorRecord& tensor : manifest.tensors) {
        out.put(static_cast<std::uint8_t>(tensor.dtype));
        out.put_count<std::uint8_t>(tensor.shape.size());
        out.put_count<std::uint16_t>(tensor.name.size());
        out.put(tensor.artifact);
        out.put(tensor.offset);
        out.put(tensor.bytes);
        for (const std::uint64_t dimension : tensor.shape) out.put(dimension);
        out.put_text(tensor.name);
    }
    out.put_digests(manifest.chunk_digests);
    return out.take();
}

Result<Manifest> decode_manifest(std::span<const std::byte> bytes, const ManifestLimits& limits) {
    if (bytes.size() > limits.encoded_bytes_max) {
        return invalid_input("the manifest has " + std::to_string(bytes.size()) +
                             " bytes, more than " + std::to_string(limits.encoded_bytes_max) +
                             " (encoded_bytes_max)");
    }
    Reader in(bytes);
    Manifest manifest;
    WEIGHTCAST_TRY(const Counts counts, read_head(in, manifest));
    WEIGHTCAST_CHECK(
        check_count("artifacts", counts.artifacts, limits.artifacts_max, kArtifactBytesMin, in));
    WEIGHTCAST_CHECK(read_artifacts(in, counts.artifacts, manifest));
    WEIGHTCAST_CHECK(
        check_count("tensors", counts.tensors, limits.tensors_max, kTensorBytesMin, in));
    WEIGHTCAST_CHECK(read_tensors(in, counts.tensors, manifest));
    WEIGHTCAST_CHECK(read_digests(in, counts.chunks, manifest));
    if (in.left() > 0) {
        return invalid_input("the manifest has " + std::to_string(in.left()) +
                             " bytes after its end");
    }
    WEIGHTCAST_TRY(manifest.layout, make_layout(manifest, counts));
    WEIGHTCAST_CHECK(check_manifest(manifest, limits));
    return manifest;
}

}  // namespace weightcast::model
