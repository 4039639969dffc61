// What changed between versions: published beside one, and pulled where the earlier one is here.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "agent/node_impl.h"
#include "base/assert.h"
#include "base/log.h"

namespace weightcast::agent {
namespace {

constexpr std::size_t kChainMax = 8;           // sets, one behind the other
constexpr std::size_t kDeltasServed = 4;       // versions' sets that a receiver goes on serving
constexpr double kWorthIt = 0.8;               // deltas over what they replace, at most
constexpr std::uint32_t kNoHolderMsMax = 300;  // the version itself can be had, too

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

// Sets that were pulled, from the one that starts at what is here to the one that ends at what is
// wanted. What is not kept is not offered to others any more.
class NodeImpl::DeltaChain {
  public:
    explicit DeltaChain(NodeImpl& node) : node_(node) {}
    ~DeltaChain() {
        for (const Arena& arena : arenas_) node_.let_go(arena.held);
    }
    DeltaChain(const DeltaChain&) = delete;
    DeltaChain& operator=(const DeltaChain&) = delete;

    // Puts one before the others.
    Result<const delta::SetHeader*> add(Arena arena, std::uint32_t chunk_count) {
        arenas_.push_back(std::move(arena));
        const Arena& last = arenas_.back();
        WEIGHTCAST_TRY(auto set,
                       delta::parse_set(last.memory->view(0, 0, bytes_of(last)), chunk_count));
        sets_.insert(sets_.begin(), std::move(set));
        return &sets_.front().header;
    }
    static std::uint64_t bytes_of(const Arena& arena) {
        return arena.held->manifest().layout.total_bytes();
    }
    std::size_t size() const { return sets_.size(); }
    std::span<const delta::Set> sets() const { return sets_; }
    // Goes on serving them, for a while.
    void keep() {
        for (const Arena& arena : arenas_) {
            node_.remember(arena.held);
            node_.keep_deltas(arena.held, node_.deltas_, kDeltasServed);
        }
        arenas_.clear();
    }

  private:
    NodeImpl& node_;
    std::vector<Arena> arenas_;
    std::vector<delta::Set> sets_;
};

std::shared_ptr<HeldVersion> NodeImpl::publish_delta_set(std::span<const std::byte> set,
                                                         std::uint64_t from,
                                                         const PublishOptions& options) {
    PublishOptions beside = options;
    beside.model = options.model + kDeltasSuffix;
    beside.channel.clear();
    std::shared_ptr<HeldVersion> offered;
    const auto published = [&]() -> Result<Published> {
        auto memory = std::make_shared<SharedMemory>();
        WEIGHTCAST_TRY(*memory, SharedMemory::create("weightcast-deltas", set.size()));
        std::memcpy(memory->pages.data(), set.data(), set.size());
        WEIGHTCAST_TRY(const Draft draft, draft_from_bytes(deltas_artifact(from), memory, beside));
        return publish_draft(draft, beside, &offered);
    }();
    if (!published) {
        log(LogLevel::warning, "no deltas to {}@{}: {}", options.model, options.version,
            published.error().message);
    }
    return offered;
}

Result<std::shared_ptr<HeldVersion>> NodeImpl::publish_deltas(const Draft& draft,
                                                              const PublishOptions& options) {
    WEIGHTCAST_TRY(const Draft earlier, draft_from_files(options.deltas_from, options));
    WEIGHTCAST_TRY(const registry::ModelInfo known, find_model(options.model));
    model::Manifest before = earlier.manifest;
    for (const registry::VersionInfo& version : known.versions) {
        const bool same = version.root == before.root() && version.version < options.version;
        if (same) before.version = version.version;
    }
    if (before.version == 0) {
        return Error{Code::invalid_input, 0,
                     fmt::format("deltas: {} is no version of {} before @{} that the registry "
                                 "knows with chunks of {} bytes",
                                 fmt::join(options.deltas_from, " "), options.model,
                                 options.version, options.chunk_bytes)};
    }
    const NamedManifest now = name_manifest(draft.manifest, options.version);
    const auto reader = [](const Draft& of) -> ReadChunk {
        return [&of](std::uint32_t chunk,
                     std::span<std::byte> to) -> Result<std::span<const std::byte>> {
            const model::Layout& layout = of.manifest.layout;
            const std::uint64_t place = std::uint64_t{chunk} << layout.options().chunk_shift;
            const PlacedMemory* const placed = memory_at(of.memory, place);
            WEIGHTCAST_ASSERT(placed != nullptr);
            const std::uint32_t artifact = layout.chunk_range(chunk).artifact;
            WEIGHTCAST_CHECK(read_placed(*placed, place, to, of.manifest.artifacts[artifact].path));
            return std::span<const std::byte>(to);
        };
    };
    WEIGHTCAST_TRY(const auto set,
                   make_delta_set(before, *now.manifest, reader(earlier), reader(draft)));
    if (!set) {
        log(LogLevel::info, "no deltas from {0}@{1} to @{2}: they would not be much less",
            options.model, before.version, options.version);
        return std::shared_ptr<HeldVersion>();
    }
    return publish_delta_set(*set, before.version, options);
}

void NodeImpl::keep_deltas(const std::shared_ptr<HeldVersion>& newest,
                           std::deque<std::shared_ptr<HeldVersion>>& kept, std::size_t count_max) {
    if (!newest) return;
    std::vector<std::shared_ptr<HeldVersion>> old;
    {
        const std::lock_guard lock(mutex_);
        kept.push_back(newest);
        for (; kept.size() > count_max; kept.pop_front()) old.push_back(kept.front());
    }
    for (const auto& held : old) let_go(held);
}

Result<void> NodeImpl::pull_deltas(const std::string& model, std::uint64_t version,
                                   std::uint64_t bytes_max, const PullOptions& options,
                                   Arena& arena) {
    PullOptions pull;
    pull.model = model + kDeltasSuffix;
    pull.reference = "@" + std::to_string(version);
    pull.fabrics = options.fabrics;
    pull.serve = options.serve;
    pull.stop = options.stop;
    pull.no_holder_ms_max = std::min(options.no_holder_ms_max, kNoHolderMsMax);
    pull.deltas = false;
    pull.bytes_max = bytes_max;
    return pull_into(pull, arena, [] { return success(); });
}

Result<void> NodeImpl::pull_chain(const model::Manifest& from, const model::Manifest& to,
                                  std::uint64_t bytes_max, const PullOptions& options,
                                  DeltaChain& chain, PullReport& report) {
    delta::Root root = to.root().bytes;
    for (std::uint64_t version = to.version; root != from.root().bytes;) {
        if (chain.size() == kChainMax || bytes_max == 0) {
            return Error{Code::not_found, 0, "they are more than a whole version"};
        }
        Arena arena;
        WEIGHTCAST_CHECK(pull_deltas(to.model, version, bytes_max, options, arena));
        const std::uint64_t bytes = DeltaChain::bytes_of(arena);
        report.delta_bytes += bytes;
        bytes_max -= std::min(bytes_max, bytes);
        const bool named = deltas_from(arena.held->manifest()).has_value();
        WEIGHTCAST_TRY(const delta::SetHeader* const header,
                       chain.add(std::move(arena), to.layout.chunk_count()));
        if (!named || header->to != root || header->from_version >= version) {
            return Error{Code::invalid_input, 0, "they are of other versions"};
        }
        if (header->from_version < from.version) {
            return Error{Code::not_found, 0, "they start before what is here"};
        }
        version = header->from_version;
        root = header->from;
    }
    return success();
}

Result<std::vector<std::uint32_t>> NodeImpl::patch(const Resolved& resolved, Destination& to,
                                                   std::span<const std::uint32_t> missing,
                                                   const std::shared_ptr<HeldVersion>& in_place,
                                                   const PullOptions& options, PullReport& report) {
    if (!options.deltas || missing.empty()) return std::vector<std::uint32_t>();
    const model::Manifest& target = *resolved.named.manifest;
    HeldVersions candidates = pulled_versions(target.model);
    if (in_place) candidates.push_back(in_place);
    const auto base = newest_of(candidates, target);
    if (!base) return std::vector<std::uint32_t>();
    const auto bytes = static_cast<double>(bytes_of(target.layout, missing));
    DeltaChain chain(*this);
    const auto pulled =
        pull_chain(base->manifest(), target, static_cast<std::uint64_t>(kWorthIt * bytes), options,
                   chain, report);
    if (!pulled) {
        const bool known = pulled.error().code != Code::invalid_input;
        log(known ? LogLevel::debug : LogLevel::warning, "no deltas to {}@{}: {}", target.model,
            target.version, pulled.error().message);
        return std::vector<std::uint32_t>();
    }
    auto patched = apply_deltas(to, target, missing, *base, chain.sets());
    if (options.serve) chain.keep();
    return patched;
}

}  // namespace weightcast::agent
