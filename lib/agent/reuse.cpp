#include "agent/reuse.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <unordered_map>

#include "base/worker_pool.h"

namespace weightcast::agent {
namespace {

// A digest is random enough to be its own hash.
struct DigestHash {
    std::size_t operator()(const model::Digest& digest) const {
        std::size_t value = 0;
        std::memcpy(&value, digest.bytes.data(), sizeof value);
        return value;
    }
};

struct HeldChunk {
    const HeldVersion* version = nullptr;
    std::uint32_t chunk = 0;
};

std::span<const model::Digest> digests_of(const model::Manifest& manifest, std::uint32_t artifact) {
    const std::uint32_t first = manifest.layout.first_chunk(artifact);
    return std::span(manifest.chunk_digests)
        .subspan(first, manifest.layout.first_chunk(artifact + 1) - first);
}

}  // namespace

std::vector<int> same_files(const model::Manifest& manifest, const HeldVersions& held) {
    std::vector<int> files(manifest.artifacts.size(), -1);
    for (std::uint32_t i = 0; i < files.size(); ++i) {
        const model::Artifact& wanted = manifest.artifacts[i];
        for (const auto& version : held) {
            const model::Manifest& other = version->manifest();
            if (other.layout.chunk_bytes() != manifest.layout.chunk_bytes()) continue;
            for (std::uint32_t k = 0; k < other.artifacts.size() && files[i] < 0; ++k) {
                const model::Artifact& candidate = other.artifacts[k];
                const bool same = candidate.bytes == wanted.bytes &&
                                  candidate.executable == wanted.executable &&
                                  std::ranges::equal(digests_of(other, k), digests_of(manifest, i));
                if (same) files[i] = version->file_of(k);
            }
        }
    }
    return files;
}

std::uint64_t bytes_of(const model::Layout& layout, std::span<const std::uint32_t> chunks) {
    return std::accumulate(chunks.begin(), chunks.end(), std::uint64_t{0},
                           [&](std::uint64_t sum, std::uint32_t chunk) {
                               return sum + layout.chunk_range(chunk).bytes;
                           });
}

Result<std::vector<std::uint32_t>> make_chunks(Destination& to, const model::Manifest& manifest,
                                               std::span<const std::uint32_t> chunks,
                                               const MakeChunk& make) {
    std::vector<char> stored(chunks.size());
    WEIGHTCAST_CHECK(parallel_try(chunks.size(), [&](std::size_t i) -> Result<void> {
        const std::uint32_t chunk = chunks[i];
        std::vector<std::byte> buffer;
        std::span<std::byte> place = to.in_place(chunk);
        if (place.empty()) {
            buffer.resize(manifest.layout.chunk_range(chunk).bytes);
            place = buffer;
        }
        if (!make(chunk, place)) return success();
        if (model::digest_chunk(place) != manifest.chunk_digests[chunk]) return success();
        WEIGHTCAST_CHECK(to.store(chunk, place));
        stored[i] = 1;
        return success();
    }));
    std::vector<std::uint32_t> made;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        if (stored[i] != 0) made.push_back(chunks[i]);
    }
    return made;
}

Result<std::vector<std::uint32_t>> take_over(Destination& to, const model::Manifest& manifest,
                                             std::span<const std::uint32_t> missing,
                                             const HeldVersions& held) {
    if (missing.empty()) return std::vector<std::uint32_t>();
    std::unordered_map<model::Digest, HeldChunk, DigestHash> known;
    for (const auto& version : held) {
        const auto& digests = version->manifest().chunk_digests;
        for (std::uint32_t chunk = 0; chunk < digests.size(); ++chunk) {
            if (!version->page().has(chunk)) continue;
            known.emplace(digests[chunk], HeldChunk{version.get(), chunk});
        }
    }
    std::vector<std::uint32_t> shared;
    for (const std::uint32_t chunk : missing) {
        if (known.contains(manifest.chunk_digests[chunk])) shared.push_back(chunk);
    }
    return make_chunks(to, manifest, shared, [&](std::uint32_t chunk, std::span<std::byte> bytes) {
        const HeldChunk& from = known.at(manifest.chunk_digests[chunk]);
        const model::Layout& layout = from.version->manifest().layout;
        return layout.chunk_range(from.chunk).bytes == bytes.size() &&
               from.version->read(from.chunk, bytes).has_value();
    });
}

}  // namespace weightcast::agent
