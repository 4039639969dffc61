#include "model/manifest.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "model/json_walk.h"
#include "model/safetensors.h"

namespace weightcast::model {
namespace {

constexpr std::size_t kPathBytesMax = 1024;
constexpr std::size_t kComponentBytesMax = 255;
constexpr std::size_t kNameBytesMax = 200;

Error over(std::string_view what, std::uint64_t value, std::uint64_t limit,
           std::string_view limit_name) {
    return invalid_input("the manifest has " + std::to_string(value) + " " + std::string(what) +
                         ", more than " + std::to_string(limit) + " (" + std::string(limit_name) +
                         ")");
}

// No path may need another one to be a directory. Of sorted paths, all between P and P + "/x"
// begin with P, so it is enough to keep the chain of paths that the current one begins with.
Result<void> check_no_path_inside_another(const std::vector<Artifact>& artifacts) {
    std::vector<std::string_view> chain;
    for (const Artifact& artifact : artifacts) {
        const std::string_view path = artifact.path;
        while (!chain.empty() && !path.starts_with(chain.back())) chain.pop_back();
        for (const std::string_view outer : chain) {
            if (path[outer.size()] == '/') {
                return invalid_input("artifact '" + printable(outer) +
                                     "' is also a directory of '" + printable(path) + "'");
            }
        }
        chain.push_back(path);
    }
    return success();
}

Result<void> check_artifacts(const Manifest& manifest) {
    const auto& artifacts = manifest.artifacts;
    for (std::size_t i = 0; i < artifacts.size(); ++i) {
        WEIGHTCAST_CHECK(check_artifact_path(artifacts[i].path));
        if (i > 0 && artifacts[i - 1].path >= artifacts[i].path) {
            return invalid_input("artifact '" + printable(artifacts[i].path) +
                                 "' is out of order or occurs twice");
        }
        if (artifacts[i].kind > ArtifactKind::safetensors) {
            return invalid_input("artifact '" + printable(artifacts[i].path) +
                                 "' is of unknown kind");
        }
    }
    return check_no_path_inside_another(artifacts);
}

Result<void> check_tensor(const Manifest& manifest, const TensorRecord& tensor) {
    const auto what = [&] { return "tensor '" + printable(tensor.name) + "'"; };
    if (tensor.name.size() > kTensorNameBytesMax) {
        return invalid_input(what() + " has a name of more than " +
                             std::to_string(kTensorNameBytesMax) + " bytes");
    }
    if (tensor.name.find('\0') != std::string::npos) {
        return invalid_input(what() + " has a NUL in it");
    }
    if (tensor.shape.size() > kDimensionsMax) {
        return invalid_input(what() + " has more than " + std::to_string(kDimensionsMax) +
                             " dimensions");
    }
    if (!dtype_from_value(static_cast<std::uint8_t>(tensor.dtype))) {
        return invalid_input(what() + " is of unknown dtype");
    }
    if (tensor.artifact >= manifest.artifacts.size()) {
        return invalid_input(what() + " is in artifact " + std::to_string(tensor.artifact) +
                             ", which does not exist");
    }
    const Artifact& artifact = manifest.artifacts[tensor.artifact];
    if (artifact.kind != ArtifactKind::safetensors) {
        return invalid_input(what() + " is in '" + printable(artifact.path) +
                             "', which is not a safetensors artifact");
    }
    if (tensor.offset > artifact.bytes || tensor.bytes > artifact.bytes - tensor.offset) {
        return invalid_input(what() + " ends behind the end of '" + printable(artifact.path) + "'");
    }
    const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
    if (!bytes) return invalid_input(what() + ": " + bytes.error().message);
    if (bytes.value() != tensor.bytes) {
        return invalid_input(what() + " has " + std::to_string(tensor.bytes) +
                             " bytes, but its dtype and shape give " +
                             std::to_string(bytes.value()));
    }
    return success();
}

Result<void> check_tensors(const Manifest& manifest) {
    for (std::size_t i = 0; i < manifest.tensors.size(); ++i) {
        const TensorRecord& tensor = manifest.tensors[i];
        WEIGHTCAST_CHECK(check_tensor(manifest, tensor));
        if (i == 0) continue;
        // Two artifacts may each have a tensor of one name, as parts of a pipeline do.
        const TensorRecord& before = manifest.tensors[i - 1];
        if (std::tie(before.name, before.artifact) >= std::tie(tensor.name, tensor.artifact)) {
            return invalid_input("tensor '" + printable(tensor.name) +
                                 "' is out of order or occurs twice");
        }
    }
    return success();
}

// Compares the layout with the one that the artifacts' sizes make.
Result<void> check_layout(const Manifest& manifest) {
    std::vector<std::uint64_t> sizes;
    sizes.reserve(manifest.artifacts.size());
    for (const Artifact& artifact : manifest.artifacts) sizes.push_back(artifact.bytes);
    WEIGHTCAST_TRY(const Layout made, Layout::make(manifest.layout.options(), sizes));
    if (!(made == manifest.layout)) {
        return invalid_input("the manifest's layout is not that of its artifacts' sizes");
    }
    if (manifest.chunk_digests.size() != made.chunk_count()) {
        return invalid_input("the manifest has " + std::to_string(manifest.chunk_digests.size()) +
                             " chunk digests for " + std::to_string(made.chunk_count()) +
                             " chunks");
    }
    return success();
}

bool is_name_character(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

Result<void> check_name(std::string_view name, bool slashes) {
    const auto refuse = [&](std::string_view why) {
        return invalid_input("name '" + printable(name) + "' " + std::string(why));
    };
    if (name.empty()) return invalid_input("the name is empty");
    if (name.size() > kNameBytesMax) return refuse("has more than 200 characters");
    bool at_start = true;
    for (const char c : name) {
        const bool is_slash = slashes && c == '/';
        if (!is_slash && !is_name_character(c)) {
            return refuse(slashes ? "has a character other than A-Z a-z 0-9 . _ - /"
                                  : "has a character other than A-Z a-z 0-9 . _ -");
        }
        if (at_start && (is_slash || c == '.' || c == '-')) {
            return refuse("has a part that is empty or starts with '.' or '-'");
        }
        at_start = is_slash;
    }
    if (at_start) return refuse("ends with '/'");
    return success();
}

}  // namespace

Digest Manifest::root() const {
    const std::span<const Digest> chunks = chunk_digests;
    const std::size_t per_bucket = layout.options().chunks_per_bucket;
    std::vector<Digest> buckets;
    buckets.reserve(layout.bucket_count());
    for (std::size_t first = 0; first < chunks.size(); first += per_bucket) {
        const std::size_t count = std::min(per_bucket, chunks.size() - first);
        buckets.push_back(digest_of_digests(chunks.subspan(first, count)));
    }
    return digest_of_digests(buckets);
}

std::int64_t Manifest::find_tensor(std::string_view name) const {
    const auto found = std::lower_bound(
        tensors.begin(), tensors.end(), name,
        [](const TensorRecord& tensor, std::string_view wanted) { return tensor.name < wanted; });
    if (found == tensors.end() || found->name != name) return -1;
    return found - tensors.begin();
}

Result<void> check_manifest(const Manifest& manifest, const ManifestLimits& limits) {
    WEIGHTCAST_CHECK(check_model_name(manifest.model));
    if (manifest.algorithm != DigestAlgorithm::xxh3_leaf16k) {
        return invalid_input("the manifest's digest algorithm is unknown");
    }
    if (manifest.artifacts.size() > limits.artifacts_max) {
        return over("artifacts", manifest.artifacts.size(), limits.artifacts_max, "artifacts_max");
    }
    if (manifest.tensors.size() > limits.tensors_max) {
        return over("tensors", manifest.tensors.size(), limits.tensors_max, "tensors_max");
    }
    WEIGHTCAST_CHECK(check_artifacts(manifest));
    WEIGHTCAST_CHECK(check_layout(manifest));
    return check_tensors(manifest);
}

Result<void> check_artifact_path(std::string_view path) {
    const auto refuse = [&](std::string_view why) {
        return invalid_input("path '" + printable(path) + "' " + std::string(why));
    };
    if (path.empty()) return invalid_input("the path is empty");
    if (path.size() > kPathBytesMax) return refuse("has more than 1024 bytes");
    if (path.find_first_of(std::string_view("\\\0", 2)) != std::string_view::npos) {
        return refuse("has a NUL or a backslash in it");
    }
    if (path.starts_with(".weightcast")) return refuse("starts with the reserved '.weightcast'");
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        const std::string_view component = path.substr(begin, end - begin);
        if (component.empty()) return refuse("is absolute or has an empty component");
        if (component == "." || component == "..") return refuse("has a component . or ..");
        if (component.size() > kComponentBytesMax) {
            return refuse("has a component of more than 255 bytes");
        }
        begin = end + 1;
    }
    return success();
}

Result<void> check_model_name(std::string_view name) { return check_name(name, true); }
Result<void> check_plain_name(std::string_view name) { return check_name(name, false); }

std::vector<std::uint32_t> chunks_of_tensors(const Manifest& manifest,
                                             std::span<const std::uint32_t> tensors,
                                             bool with_opaque) {
    using Run = std::pair<std::uint32_t, std::uint32_t>;  // first chunk, one past the last
    const Layout& layout = manifest.layout;
    std::vector<Run> runs;
    runs.reserve(tensors.size());
    for (const std::uint32_t index : tensors) {
        const TensorRecord& tensor = manifest.tensors[index];
        if (tensor.bytes == 0) continue;
        const std::uint64_t place = layout.place_of(tensor.artifact) + tensor.offset;
        const std::uint32_t shift = layout.options().chunk_shift;
        runs.emplace_back(static_cast<std::uint32_t>(place >> shift),
                          static_cast<std::uint32_t>((place + tensor.bytes - 1) >> shift) + 1);
    }
    for (std::uint32_t i = 0; with_opaque && i < manifest.artifacts.size(); ++i) {
        if (manifest.artifacts[i].kind != ArtifactKind::opaque) continue;
        runs.emplace_back(layout.first_chunk(i), layout.first_chunk(i + 1));
    }
    std::sort(runs.begin(), runs.end());
    std::vector<std::uint32_t> chunks;
    std::uint32_t next = 0;
    for (const auto& [first, end] : runs) {
        for (next = std::max(next, first); next < end; ++next) chunks.push_back(next);
    }
    return chunks;
}

}  // namespace weightcast::model
