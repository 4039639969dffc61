// A pull that moves what changed since a version that is here.
#include <algorithm>
#include <numeric>
#include <vector>

#include "agent/node_impl.h"
#include "base/log.h"

namespace weightcast::agent {
namespace {

constexpr std::size_t kChainMax = 8;      // sets, one behind the other
constexpr std::size_t kDeltasServed = 4;  // versions' sets that a receiver goes on serving
constexpr double kWorthIt = 0.8;          // deltas over what they replace, at most

// The newest complete version that deltas can start from.
std::shared_ptr<HeldVersion> newest_of(const HeldVersions& candidates,
                                       const model::Manifest& target) {
    std::shared_ptr<HeldVersion> newest;
    for (const auto& held : candidates) {
        const model::Manifest& manifest = held->manifest();
        const bool usable = manifest.layout == target.layout && manifest.version < target.version &&
                            held->page().held() == manifest.layout.chunk_count();
        if (usable && (!newest || manifest.version > newest->manifest().version)) newest = held;
    }
    return newest;
}

}  // namespace

Result<NodeImpl::Arena> NodeImpl::pull_deltas(const std::string& model, std::uint64_t version,
                                              std::uint64_t bytes_max, const PullOptions& options) {
    PullOptions pull;
    pull.model = model + kDeltasSuffix;
    pull.reference = "@" + std::to_string(version);
    pull.fabrics = options.fabrics;
    pull.serve = options.serve;
    pull.stop = options.stop;
    pull.no_holder_ms_max = options.no_holder_ms_max;
    pull.deltas = false;
    pull.bytes_max = bytes_max;
    Arena arena;
    WEIGHTCAST_CHECK(pull_into(pull, arena, [] { return success(); }));
    return arena;
}

Result<std::vector<std::uint32_t>> NodeImpl::patch(const Resolved& resolved, Destination& to,
                                                   std::span<const std::uint32_t> missing,
                                                   const std::shared_ptr<HeldVersion>& in_place,
                                                   const PullOptions& options, PullReport& report) {
    const model::Manifest& target = *resolved.named.manifest;
    HeldVersions candidates = pulled_versions(target.model);
    if (in_place) candidates.push_back(in_place);
    const auto base = newest_of(candidates, target);
    if (!options.deltas || missing.empty() || !base) return std::vector<std::uint32_t>();
    auto left = static_cast<std::uint64_t>(
        kWorthIt *
        static_cast<double>(std::accumulate(missing.begin(), missing.end(), std::uint64_t{0},
                                            [&](std::uint64_t sum, std::uint32_t chunk) {
                                                return sum + target.layout.chunk_range(chunk).bytes;
                                            })));
    // From the newest set back to the one that starts at what is here.
    std::vector<Arena> arenas;
    std::vector<delta::Set> chain;
    delta::Root to_root = target.root().bytes;
    const auto here = base->manifest().root().bytes;
    for (std::uint64_t version = target.version; chain.empty() || to_root != here;) {
        if (arenas.size() == kChainMax) return std::vector<std::uint32_t>();
        auto pulled = pull_deltas(target.model, version, left, options);
        if (!pulled) {
            log(LogLevel::debug, "no deltas to {}@{}: {}", target.model, version,
                pulled.error().message);
            return std::vector<std::uint32_t>();
        }
        arenas.push_back(std::move(pulled).value());
        const Arena& arena = arenas.back();
        const std::uint64_t bytes = arena.held->manifest().layout.total_bytes();
        report.delta_bytes += bytes;
        left -= std::min(left, bytes);
        const auto set =
            delta::parse_set(arena.memory->view(0, 0, bytes), target.layout.chunk_count());
        const bool fits = set && deltas_from(arena.held->manifest()) &&
                          set.value().header.to == to_root &&
                          set.value().header.from_version < version &&
                          set.value().header.from_version >= base->manifest().version;
        if (!fits) {
            log(LogLevel::warning, "the deltas to {}@{} are not usable{}", target.model, version,
                set ? "" : ": " + set.error().message);
            return std::vector<std::uint32_t>();
        }
        chain.insert(chain.begin(), set.value());
        version = set.value().header.from_version;
        to_root = set.value().header.from;
    }
    for (const Arena& arena : arenas) {
        if (!options.serve) break;
        remember(arena.held);
        const std::lock_guard lock(mutex_);
        deltas_.push_back(arena.held);
    }
    auto patched = apply_deltas(to, target, missing, *base, chain);
    for (;;) {
        std::shared_ptr<HeldVersion> oldest;
        {
            const std::lock_guard lock(mutex_);
            if (deltas_.size() <= kDeltasServed) break;
            oldest = deltas_.front();
            deltas_.pop_front();
        }
        let_go(oldest);
    }
    return patched;
}

}  // namespace weightcast::agent
