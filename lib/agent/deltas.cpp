#include "agent/deltas.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

#include "agent/reuse.h"
#include "base/numbers.h"
#include "base/worker_pool.h"
#include "delta/delta.h"

namespace weightcast::agent {
namespace {

constexpr std::string_view kFrom = "from-";
// Beyond these, making and applying deltas takes longer than moving the bytes. Of a chunk, before
// compression, and of all chunks that differ.
constexpr double kChunkRatioMax = 0.5;
constexpr double kSetRatioMax = 0.5;

// Which tensor lies where.
class TensorPlaces {
  public:
    explicit TensorPlaces(const model::Manifest& manifest) : layout_(manifest.layout) {
        for (const model::TensorRecord& tensor : manifest.tensors) {
            if (tensor.bytes > 0) tensors_.push_back(&tensor);
        }
        std::ranges::sort(tensors_, {}, place);
    }

    // The width of the elements of the tensor that has the most of a chunk.
    std::size_t element_bytes(std::uint32_t chunk) const {
        const model::ArtifactRange range = layout_.chunk_range(chunk);
        auto next =
            std::ranges::upper_bound(tensors_, std::pair(range.artifact, range.offset), {}, place);
        if (next != tensors_.begin()) --next;
        std::size_t element = 2;
        std::uint64_t most = 0;
        for (; next != tensors_.end() && (*next)->artifact == range.artifact; ++next) {
            const model::TensorRecord& tensor = **next;
            if (tensor.offset >= range.offset + range.bytes) break;
            const std::uint64_t begin = std::max(tensor.offset, range.offset);
            const std::uint64_t end =
                std::min(tensor.offset + tensor.bytes, range.offset + range.bytes);
            if (end <= begin || end - begin <= most) continue;
            most = end - begin;
            element = std::bit_floor(std::clamp(model::bits_of(tensor.dtype) / 8, 1U, 8U));
        }
        return element;
    }

  private:
    static std::pair<std::uint32_t, std::uint64_t> place(const model::TensorRecord* tensor) {
        return {tensor->artifact, tensor->offset};
    }

    const model::Layout& layout_;
    std::vector<const model::TensorRecord*> tensors_;  // by place
};

}  // namespace

std::string deltas_artifact(std::uint64_t from_version) {
    return fmt::format("{}{}", kFrom, from_version);
}

std::optional<std::uint64_t> deltas_from(const model::Manifest& manifest) {
    if (manifest.artifacts.size() != 1) return std::nullopt;
    const std::string_view path = manifest.artifacts[0].path;
    return path.starts_with(kFrom) ? parse_number(path.substr(kFrom.size())) : std::nullopt;
}

Result<std::optional<std::vector<std::byte>>> DeltaBase::update(const model::Manifest& now,
                                                                const ReadChunk& read) {
    const model::Layout& layout = now.layout;
    const bool comparable = before_ && before_->layout == layout;
    if (!comparable) {
        WEIGHTCAST_TRY(copy_, SharedMemory::create("weightcast-before", layout.space_bytes()));
    }
    std::vector<delta::Difference> differences(layout.chunk_count());
    std::atomic<std::uint64_t> differing{0};
    const TensorPlaces places(now);
    parallel_for(layout.chunk_count(), [&](std::size_t i) {
        if (comparable && before_->chunk_digests[i] == now.chunk_digests[i]) return;
        const auto chunk = static_cast<std::uint32_t>(i);
        const std::span<std::byte> copy =
            copy_.pages.span().subspan(i * layout.chunk_bytes(), layout.chunk_range(chunk).bytes);
        if (!comparable) return read(chunk, copy);
        std::vector<std::byte> fresh(copy.size());
        read(chunk, fresh);
        differing += fresh.size();
        delta::Options options;
        options.element_bytes = places.element_bytes(chunk);
        options.full_ratio = kChunkRatioMax;
        differences[i] = delta::diff(copy, fresh, options);
        std::memcpy(copy.data(), fresh.data(), fresh.size());
    });
    std::optional<std::vector<std::byte>> set;
    if (differing > 0) {
        std::vector<delta::SetEntry> entries;
        for (std::uint32_t chunk = 0; chunk < differences.size(); ++chunk) {
            if (differences[chunk].form != delta::Form::sparse) continue;
            entries.push_back({chunk, differences[chunk].bytes});
        }
        std::uint64_t saved = 0;
        for (const delta::SetEntry& entry : entries) {
            saved += layout.chunk_range(entry.chunk).bytes - entry.encoded.size();
        }
        if (static_cast<double>(saved) >= (1 - kSetRatioMax) * static_cast<double>(differing)) {
            set = delta::encode_set({before_->version, before_->root().bytes, now.root().bytes},
                                    entries);
        }
    }
    before_ = now;
    return set;
}

Result<std::vector<std::uint32_t>> apply_deltas(Destination& to, const model::Manifest& manifest,
                                                std::span<const std::uint32_t> missing,
                                                const HeldVersion& base,
                                                std::span<const delta::Set> chain) {
    return make_chunks(to, manifest, missing, [&](std::uint32_t chunk, std::span<std::byte> bytes) {
        std::vector<const delta::SetEntry*> entries;
        for (const delta::Set& set : chain) {
            if (const auto* entry = delta::find(set, chunk)) entries.push_back(entry);
        }
        return !entries.empty() && base.read(chunk, bytes) &&
               std::ranges::all_of(entries, [bytes](const delta::SetEntry* entry) {
                   return delta::apply(entry->encoded, bytes).has_value();
               });
    });
}

}  // namespace weightcast::agent
