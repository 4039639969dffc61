// Use of a holder's own pages, without a copy.
#include <fmt/core.h>

#include <algorithm>
#include <atomic>

#include "agent/node_impl.h"
#include "base/worker_pool.h"

namespace weightcast::agent {
namespace {

class MappedMemory final : public PulledMemory {
  public:
    MappedMemory(std::shared_ptr<const model::Manifest> manifest,
                 std::vector<registry::Extent> extents, std::vector<Mapping> regions,
                 PullReport report)
        : manifest_(std::move(manifest)),
          extents_(std::move(extents)),
          regions_(std::move(regions)),
          report_(std::move(report)) {}

    const PullReport& report() const override { return report_; }

    std::vector<TensorView> tensors() const override {
        std::vector<TensorView> views;
        for (const model::TensorRecord& record : manifest_->tensors) {
            views.push_back(view(record, pieces(record.artifact, record.offset, record.bytes)));
        }
        return views;
    }

    Result<TensorView> tensor(const std::string& name) const override {
        const std::int64_t index = manifest_->find_tensor(name);
        if (index < 0) {
            return Error{Code::not_found, 0, fmt::format("there is no tensor {}", name)};
        }
        const auto& record = manifest_->tensors[static_cast<std::size_t>(index)];
        return view(record, pieces(record.artifact, record.offset, record.bytes));
    }

    // Errors: corrupt, unavailable (a tensor is not in one piece, or not all there).
    Result<void> verify() const {
        const model::Layout& layout = manifest_->layout;
        std::atomic<std::uint32_t> wrong{UINT32_MAX};
        parallel_for(layout.chunk_count(), [&](std::size_t i) {
            const auto chunk = static_cast<std::uint32_t>(i);
            const model::ArtifactRange range = layout.chunk_range(chunk);
            model::ChunkHasher hasher;
            for (const auto piece : pieces(range.artifact, range.offset, range.bytes)) {
                hasher.update(piece);
            }
            if (hasher.finish() != manifest_->chunk_digests[chunk]) wrong = chunk;
        });
        if (wrong != UINT32_MAX) {
            return Error{Code::corrupt, 0,
                         fmt::format("chunk {} of the mapped memory does not match its digest",
                                     wrong.load())};
        }
        for (const model::TensorRecord& record : manifest_->tensors) {
            if (pieces(record.artifact, record.offset, record.bytes).size() > 1) {
                return Error{Code::unavailable, 0,
                             fmt::format("tensor {} is not in one piece", record.name)};
            }
        }
        return success();
    }

  private:
    static TensorView view(const model::TensorRecord& record,
                           const std::vector<std::span<const std::byte>>& pieces) {
        return {record.name, std::string(model::name_of(record.dtype)), record.shape,
                pieces.empty() ? std::span<const std::byte>() : pieces.front()};
    }

    std::vector<std::span<const std::byte>> pieces(std::uint32_t artifact, std::uint64_t offset,
                                                   std::uint64_t bytes) const {
        std::vector<std::span<const std::byte>> found;
        const std::uint64_t place = manifest_->layout.place_of(artifact) + offset;
        auto extent = std::upper_bound(
            extents_.begin(), extents_.end(), place,
            [](std::uint64_t at, const registry::Extent& e) { return at < e.place; });
        if (extent == extents_.begin()) return found;
        --extent;
        for (std::uint64_t done = 0; done < bytes && extent != extents_.end(); ++extent) {
            if (extent->place > place + done) break;
            const std::uint64_t inside = place + done - extent->place;
            if (inside >= extent->bytes) break;
            const std::uint64_t piece = std::min(bytes - done, extent->bytes - inside);
            const std::uint64_t begin = extent->offset + inside;
            const auto region = regions_[extent->region].span();
            if (begin > region.size() || piece > region.size() - begin) break;
            found.push_back(region.subspan(begin, piece));
            done += piece;
        }
        return found;
    }

    std::shared_ptr<const model::Manifest> manifest_;
    std::vector<registry::Extent> extents_;
    std::vector<Mapping> regions_;
    PullReport report_;
};

Result<std::vector<Mapping>> map_regions(fabric::Fabric& fabric, const registry::HolderHint& hint) {
    const fabric::LinkId link =
        fabric.connect({hint.addresses.at(fabric.name()), hint.incarnation});
    std::vector<Mapping> regions;
    Result<void> outcome = success();
    for (const auto& key : hint.holding.keys.at(fabric.name()).regions) {
        auto mapped = fabric.map_region(link, key);
        if (!mapped) {
            outcome = mapped.error();
            break;
        }
        regions.push_back(std::move(mapped).value());
    }
    fabric.disconnect(link);
    if (!outcome) return outcome.error();
    return regions;
}

}  // namespace

Result<std::unique_ptr<PulledMemory>> map_holder(
    IoThread& io, const registry::Grant& grant,
    const std::shared_ptr<const model::Manifest>& manifest, const PullReport& report) {
    Error last{Code::unavailable, 0, "no complete holder on this host shares its memory"};
    for (const registry::HolderHint& hint : grant.holders) {
        if (!hint.holding.complete) continue;
        for (const auto& fabric : io.fabrics()) {
            const std::string name = fabric->name();
            const auto address = hint.addresses.find(name);
            const auto keys = hint.holding.keys.find(name);
            if (address == hint.addresses.end() || !fabric->can_reach(address->second) ||
                keys == hint.holding.keys.end()) {
                continue;
            }
            const auto known = [&](const registry::Extent& extent) {
                return extent.region < keys->second.regions.size();
            };
            const auto& extents = hint.holding.extents;
            if (!std::all_of(extents.begin(), extents.end(), known)) continue;
            auto regions = io.call([&] { return map_regions(*fabric, hint); });
            if (!regions) {
                last = regions.error();
                continue;
            }
            PullReport mine = report;
            mine.holders.push_back({hint.name, name, false, 0});
            auto mapped = std::make_unique<MappedMemory>(
                manifest, extents, std::move(regions).value(), std::move(mine));
            auto verified = mapped->verify();
            if (verified) return std::unique_ptr<PulledMemory>(std::move(mapped));
            last = verified.error();
        }
    }
    return last;
}

}  // namespace weightcast::agent
