#include "agent/reuse.h"

#include <algorithm>
#include <cstring>
#include <mutex>
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

Result<std::vector<std::uint32_t>> take_over(Destination& to, const model::Manifest& manifest,
                                             std::span<const std::uint32_t> missing,
                                             const HeldVersions& held) {
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
    std::vector<char> taken(shared.size());
    std::mutex mutex;
    Result<void> outcome = success();
    parallel_for(shared.size(), [&](std::size_t i) {
        const std::uint32_t chunk = shared[i];
        const model::Digest& digest = manifest.chunk_digests[chunk];
        const HeldChunk& from = known.at(digest);
        const std::uint64_t bytes = manifest.layout.chunk_range(chunk).bytes;
        if (from.version->manifest().layout.chunk_range(from.chunk).bytes != bytes) return;
        std::vector<std::byte> buffer;
        std::span<std::byte> place = to.in_place(chunk);
        if (place.empty()) {
            buffer.resize(bytes);
            place = buffer;
        }
        if (!from.version->read(from.chunk, place) || model::digest_chunk(place) != digest) return;
        if (const auto stored = to.store(chunk, place)) {
            taken[i] = 1;
        } else {
            const std::lock_guard lock(mutex);
            if (outcome) outcome = stored;
        }
    });
    WEIGHTCAST_CHECK(outcome);
    std::vector<std::uint32_t> chunks;
    for (std::size_t i = 0; i < shared.size(); ++i) {
        if (taken[i] != 0) chunks.push_back(shared[i]);
    }
    return chunks;
}

}  // namespace weightcast::agent
