#include <algorithm>
#include <map>
#include <utility>

#include "base/hex.h"
#include "base/random.h"
#include "registry/store.h"

namespace weightcast::registry {
namespace {

class MemoryStore final : public Store {
  public:
    MemoryStore() : cluster_id_(to_hex(random_identity())) {}

    const std::string& cluster_id() const override { return cluster_id_; }

    Result<std::vector<Change>> load() override { return changes_; }

    Result<void> commit(std::span<const Change> changes) override {
        for (const Change& change : changes) {
            if (const auto* retired = std::get_if<VersionRetired>(&change)) forget(*retired);
            changes_.push_back(change);
        }
        ++stats_.commits;
        stats_.changes += changes.size();
        return success();
    }

    Result<std::vector<ChannelMoved>> history(const std::string& model, const std::string& channel,
                                              std::size_t count_max) override {
        std::vector<ChannelMoved> moves;
        for (const Change& change : changes_) {
            const auto* moved = std::get_if<ChannelMoved>(&change);
            if (moved == nullptr || moved->channel.model != model) continue;
            if (moved->channel.channel == channel) moves.push_back(*moved);
        }
        const std::size_t surplus = moves.size() - std::min(moves.size(), count_max);
        moves.erase(moves.begin(), moves.begin() + static_cast<std::ptrdiff_t>(surplus));
        return moves;
    }

    Result<void> put_manifest(const model::Sha256& name,
                              std::span<const std::byte> encoded) override {
        manifests_.try_emplace(name, encoded.begin(), encoded.end());
        stats_.manifest_bytes += encoded.size();
        return success();
    }

    Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) override {
        const auto found = manifests_.find(name);
        if (found == manifests_.end()) return unknown(name);
        return found->second;
    }

    Result<std::uint64_t> manifest_bytes(const model::Sha256& name) override {
        const auto found = manifests_.find(name);
        if (found == manifests_.end()) return unknown(name);
        return std::uint64_t{found->second.size()};
    }

    StoreStats stats() const override { return stats_; }
    bool failed() const override { return false; }

  private:
    // What was written of a version that is retired, and its manifest.
    void forget(const VersionRetired& retired) {
        std::erase_if(changes_, [&](const Change& change) {
            if (const auto* set = std::get_if<QuarantineSet>(&change)) {
                return set->model == retired.model && set->version == retired.version;
            }
            const auto* published = std::get_if<VersionPublished>(&change);
            if (published == nullptr || published->version.model != retired.model ||
                published->version.version != retired.version) {
                return false;
            }
            manifests_.erase(published->version.manifest);
            return true;
        });
    }
    static Error unknown(const model::Sha256& name) {
        return {Code::not_found, 0, "there is no manifest " + model::to_string(name)};
    }

    std::string cluster_id_;
    std::vector<Change> changes_;
    std::map<model::Sha256, std::vector<std::byte>> manifests_;
    StoreStats stats_;
};

}  // namespace

std::unique_ptr<Store> make_memory_store() { return std::make_unique<MemoryStore>(); }

}  // namespace weightcast::registry
