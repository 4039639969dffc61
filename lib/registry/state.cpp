// Peers, versions and channels. Holdings and read leases: state_holders.cpp.
#include "registry/state.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/assert.h"
#include "registry/canary.h"

namespace weightcast::registry {
namespace {

constexpr std::size_t kRetiredAtOnce = 4;    // versions, with each that is published
constexpr std::size_t kRetiringLooks = 256;  // at versions that may be retired

// Ids start at a random place below 2^48, so that those of an earlier boot are unknown and every
// JSON reader can hold them in a double.
constexpr std::uint64_t kFirstIdBound = 1ULL << 48U;

Error unknown_peer(const PeerRef& ref) {
    return {
        Code::stale, 0,
        fmt::format("peer {} of epoch {} is not registered: register again", ref.id, ref.epoch)};
}

ChannelMoved move(const std::string& model, const std::string& channel, std::uint64_t version,
                  std::uint64_t generation, std::uint64_t wall_ms) {
    return {{model, channel, version, generation, wall_ms}, {}, {}};
}

template <typename... Visitors>
struct Overloaded : Visitors... {
    using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

}  // namespace

State::State(const StateOptions& options, ClusterInfo cluster, std::uint64_t seed)
    : options_(options),
      cluster_(std::move(cluster)),
      random_(seed),
      next_id_(1 + random_.below(kFirstIdBound)),
      next_epoch_(1 + random_.below(kFirstIdBound)) {}

void State::apply(const Change& change) {
    std::visit(Overloaded{
                   [this](const VersionPublished& published) {
                       const VersionInfo& info = published.version;
                       Model& model = models_[info.model];
                       model.retired.erase(info.version);
                       model.versions[info.version].info = info;
                       ++counts_.versions;
                       counts_.models = models_.size();
                       events_.push_back({.kind = EventKind::version_published,
                                          .model = info.model,
                                          .version = info.version,
                                          .name = info.publisher});
                   },
                   [this](const ChannelMoved& moved) {
                       const ChannelInfo& channel = moved.channel;
                       models_[channel.model].channels[channel.channel] = channel;
                       events_.push_back({.kind = EventKind::channel_moved,
                                          .model = channel.model,
                                          .version = channel.version,
                                          .channel = channel.channel,
                                          .generation = channel.generation,
                                          .wall_ms = channel.wall_ms,
                                          .canary = channel.canary,
                                          .name = moved.who,
                                          .detail = moved.why});
                   },
                   [this](const QuarantineSet& set) {
                       const auto version = find_version(set.model, set.version);
                       WEIGHTCAST_ASSERT(version.has_value());
                       version.value()->info.quarantined = set.quarantined;
                   },
                   [this](const VersionRetired& retired) {
                       Model& model = models_[retired.model];
                       model.retired[retired.version] = retired.root;
                       if (model.retired.size() > options_.retired_max) {
                           model.retired_before = model.retired.begin()->first;
                           model.retired.erase(model.retired.begin());
                       }
                       erase(model, retired.version);
                   },
               },
               change);
}

Duration State::lease_and_grace() const {
    return std::chrono::milliseconds(std::uint64_t{options_.lease_ms} + options_.grace_ms);
}

PeerLease State::lease_of(const Peer& peer) const {
    return {peer.ref, options_.lease_ms, cluster_};
}

Result<const State::Peer*> State::find_peer(const PeerRef& ref) const {
    const auto found = peers_.find(ref.id);
    if (found == peers_.end() || found->second.ref.epoch != ref.epoch) return unknown_peer(ref);
    return &found->second;
}

Result<State::Peer*> State::find_peer(const PeerRef& ref) {
    const auto found = peers_.find(ref.id);
    if (found == peers_.end() || found->second.ref.epoch != ref.epoch) return unknown_peer(ref);
    return &found->second;
}

Result<const State::Model*> State::known_model(const std::string& name) const {
    const auto found = models_.find(name);
    if (found != models_.end()) return &found->second;
    return Error{Code::not_found, 0, fmt::format("there is no model {}", name)};
}

Result<const State::Version*> State::find_version(const std::string& model,
                                                  std::uint64_t version) const {
    WEIGHTCAST_TRY(const Model* const found, known_model(model));
    const auto at = found->versions.find(version);
    if (at == found->versions.end()) {
        const bool retired = found->retired.contains(version);
        return Error{Code::not_found, 0,
                     fmt::format("there is no version {}@{}{}", model, version,
                                 retired ? " any more: nobody had it, and it was old" : "")};
    }
    return &at->second;
}

Result<State::Version*> State::find_version(const std::string& model, std::uint64_t version) {
    WEIGHTCAST_TRY(const Version* found, std::as_const(*this).find_version(model, version));
    return const_cast<Version*>(found);
}

Result<PeerLease> State::register_peer(const PeerInfo& info, TimePoint now) {
    if (info.protocol != kProtocolVersion) {
        return Error{Code::refused, 0,
                     fmt::format("peer {} speaks protocol {}, this registry speaks protocol {}",
                                 info.name, info.protocol, kProtocolVersion)};
    }
    if (const auto named = names_.find(info.name); named != names_.end()) {
        Peer& living = peers_.at(named->second);
        if (living.info.incarnation == info.incarnation && living.info.host == info.host) {
            living.info = info;
            living.deadline = now + lease_and_grace();
            return lease_of(living);
        }
        if (!info.take_over) {
            return Error{Code::conflict, 0,
                         fmt::format("a living peer on host {} has the name {}: stop it, wait for "
                                     "its lease of {} ms to end, or take over",
                                     living.info.host, info.name, options_.lease_ms)};
        }
        remove_peer(living.ref.id, "taken over");
    }
    if (peers_.size() >= options_.peers_max) {
        return Error{Code::unavailable, 0,
                     fmt::format("the limit of {} peers is reached", options_.peers_max)};
    }
    const std::uint64_t id = next_id_++;
    Peer& peer = peers_[id];
    peer.ref = {id, next_epoch_++};
    peer.info = info;
    peer.deadline = now + lease_and_grace();
    deadlines_.emplace(peer.deadline, id);
    names_[info.name] = id;
    counts_.peers = peers_.size();
    events_.push_back({.kind = EventKind::peer_joined, .peer = id, .name = info.name});
    return lease_of(peer);
}

Result<HeartbeatReply> State::heartbeat(const Heartbeat& heartbeat, TimePoint now) {
    WEIGHTCAST_TRY(Peer* const peer, find_peer(heartbeat.peer));
    peer->deadline = now + lease_and_grace();
    for (const HoldingProgress& progress : heartbeat.progress) {
        const auto version = find_version(progress.model, progress.version);
        if (!version) continue;
        const auto at = peer->holdings.find(version.value());
        if (at == peer->holdings.end()) continue;
        Held& held = at->second;
        unrank(*peer, *version.value(), held);
        held.holding.complete = progress.complete;
        held.holding.bytes_held = progress.bytes_held;
        held.holding.buckets = progress.buckets;
        rank(*peer, *version.value(), held);
        replan_holding(*peer, *version.value());
    }
    return HeartbeatReply{options_.lease_ms, cluster_.boot_epoch};
}

void State::leave(const PeerRef& peer) {
    if (find_peer(peer)) remove_peer(peer.id, "left");
}

void State::remove_peer(std::uint64_t id, const char* why) {
    const auto found = peers_.find(id);
    WEIGHTCAST_ASSERT(found != peers_.end());
    Peer& peer = found->second;
    while (!peer.pulls.empty()) remove_pull(*peer.pulls.begin());
    while (!peer.holdings.empty()) remove_holding(peer, *peer.holdings.begin()->first);
    for (Version* const version : peer.accused_in) {
        version->accusers.erase(id);
        version->quarantined.erase(id);
    }
    events_.push_back(
        {.kind = EventKind::peer_left, .peer = id, .name = peer.info.name, .detail = why});
    names_.erase(peer.info.name);
    peers_.erase(found);
    counts_.peers = peers_.size();
}

void State::forgive_until(TimePoint time) {
    if (time > forgiven_until_) forgiven_until_ = time;
}

void State::expire(TimePoint now) {
    if (now < forgiven_until_) return;
    while (!deadlines_.empty() && deadlines_.top().first <= now) {
        const std::uint64_t id = deadlines_.top().second;
        deadlines_.pop();
        const auto found = peers_.find(id);
        if (found == peers_.end()) continue;
        if (found->second.deadline > now) {
            deadlines_.emplace(found->second.deadline, id);
            continue;
        }
        ++counts_.expired_peers;
        remove_peer(id, "lease expired");
    }
}

// Whether a version that is not known may be published.
Result<void> State::check_new_version(const Peer& publisher, const PublishRequest& request) const {
    // Else a channel would move to a version that its publisher cannot hold.
    WEIGHTCAST_CHECK(check_may_hold(publisher));
    const auto found = models_.find(request.model);
    if (found == models_.end()) {
        if (models_.size() < options_.models_max) return success();
        return Error{Code::no_space, 0,
                     fmt::format("the limit of {} models is reached", options_.models_max)};
    }
    const Model& model = found->second;
    if (model.versions.size() >= options_.versions_per_model_max) {
        return Error{Code::no_space, 0,
                     fmt::format("the limit of {} versions of model {} is reached",
                                 options_.versions_per_model_max, request.model)};
    }
    const auto retired = model.retired.find(request.version);
    if (retired == model.retired.end() && request.version <= model.retired_before) {
        return Error{Code::conflict, 0,
                     fmt::format("{}@{} may have been other bytes once: publish a version after {}",
                                 request.model, request.version, model.retired_before)};
    }
    if (retired == model.retired.end() || retired->second == request.root) return success();
    return Error{Code::conflict, 0,
                 fmt::format("{}@{} was root {}, not root {}: a version never changes, publish "
                             "another one",
                             request.model, request.version, model::to_string(retired->second),
                             model::to_string(request.root))};
}

Result<Planned<PublishReply>> State::publish(const PublishRequest& request,
                                             std::uint64_t wall_ms) const {
    WEIGHTCAST_TRY(const Peer* const peer, find_peer(request.peer));
    const auto model = models_.find(request.model);
    const ChannelInfo* current = nullptr;
    if (model != models_.end()) {
        const auto at = model->second.channels.find(request.channel);
        if (at != model->second.channels.end()) current = &at->second;
    }
    Planned<PublishReply> planned;
    const auto move_channel = [&] {
        ++planned.reply.generation;
        ChannelMoved moved = move(request.model, request.channel, request.version,
                                  planned.reply.generation, wall_ms);
        moved.who = peer->info.name;
        moved.why = "published";
        planned.changes.push_back(std::move(moved));
    };
    if (const auto found = find_version(request.model, request.version)) {
        const VersionInfo& info = found.value()->info;
        if (info.manifest != request.manifest || info.root != request.root) {
            return Error{
                Code::conflict, 0,
                fmt::format("{}@{} is root {} with manifest {}, published by {}, not root {} with "
                            "manifest {}: a version never changes, publish another one",
                            request.model, request.version, model::to_string(info.root),
                            model::to_string(info.manifest), info.publisher,
                            model::to_string(request.root), model::to_string(request.manifest))};
        }
        planned.reply = {describe(*found.value()), false, current ? current->generation : 0};
        if (info.quarantined) {
            planned.changes.push_back(QuarantineSet{info.model, info.version, false});
            planned.reply.version.quarantined = false;
        }
        // A channel that is missing was lost with a store, or is named now for the first time.
        if (!request.channel.empty() && current == nullptr) move_channel();
        return planned;
    }
    WEIGHTCAST_CHECK(check_new_version(*peer, request));
    VersionInfo info;
    info.model = request.model;
    info.version = request.version;
    info.manifest = request.manifest;
    info.manifest_bytes = request.manifest_bytes;
    info.root = request.root;
    info.bytes = request.bytes;
    info.chunk_count = request.chunk_count;
    info.bucket_count = request.bucket_count;
    info.published_wall_ms = wall_ms;
    info.publisher = peer->info.name;
    planned.changes.push_back(VersionPublished{info});
    planned.reply = {info, true, current ? current->generation : 0};
    if (!request.channel.empty() && (current == nullptr || current->version < request.version)) {
        move_channel();
    }
    return planned;
}

Result<Planned<ChannelInfo>> State::set_channel(const SetChannelRequest& request,
                                                std::uint64_t wall_ms) const {
    WEIGHTCAST_CHECK(find_version(request.model, request.version));
    if (request.canary) WEIGHTCAST_CHECK(find_version(request.model, request.canary->version));
    const auto& channels = models_.at(request.model).channels;
    const auto at = channels.find(request.channel);
    const std::uint64_t generation = at == channels.end() ? 0 : at->second.generation;
    if (request.expected_generation && *request.expected_generation != generation) {
        return Error{
            Code::conflict, 0,
            fmt::format("channel {}:{} is at generation {}, not {}: read it again", request.model,
                        request.channel, generation, *request.expected_generation)};
    }
    if (at == channels.end() && channels.size() >= options_.channels_per_model_max) {
        return Error{Code::no_space, 0,
                     fmt::format("the limit of {} channels of model {} is reached",
                                 options_.channels_per_model_max, request.model)};
    }
    ChannelMoved moved =
        move(request.model, request.channel, request.version, generation + 1, wall_ms);
    moved.who = request.who;
    moved.why = request.why;
    moved.channel.canary = request.canary;
    const ChannelInfo reply = moved.channel;
    return Planned<ChannelInfo>{{std::move(moved)}, reply};
}

VersionInfo State::describe(const Version& version) {
    VersionInfo info = version.info;
    info.holders_complete = static_cast<std::uint32_t>(version.complete.size());
    info.holders_partial =
        static_cast<std::uint32_t>(version.ranked.size() - version.complete.size());
    return info;
}

std::vector<ModelInfo> State::list_models() const {
    std::vector<ModelInfo> models;
    for (const auto& [name, model] : models_) models.push_back(describe(name, model));
    return models;
}

ModelInfo State::describe(const std::string& name, const Model& model) {
    ModelInfo info;
    info.model = name;
    for (const auto& [number, version] : model.versions) {
        info.versions.push_back(describe(version));
    }
    for (const auto& [channel_name, channel] : model.channels) info.channels.push_back(channel);
    return info;
}

Result<ModelInfo> State::find_model(const std::string& name) const {
    WEIGHTCAST_TRY(const Model* const found, known_model(name));
    return describe(name, *found);
}

// True if somebody has (a part of) it, reads it, or was told to read it.
bool State::is_wanted(const Model& model, const Version& version) {
    return version.pulls > 0 || !version.ranked.empty() || !version.quarantined.empty() ||
           std::ranges::any_of(model.channels, [&](const auto& entry) {
               return names(entry.second, version.info.version);
           });
}

std::vector<Change> State::retire(const std::string& name, std::uint64_t but_not) {
    std::vector<Change> changes;
    const auto found = models_.find(name);
    if (found == models_.end()) return changes;
    Model& model = found->second;
    const std::size_t count = model.versions.size();
    if (count <= options_.versions_kept) return changes;
    // From where the last look ended, so that those that are wanted do not hide the others.
    const std::uint64_t newest = std::prev(model.versions.end(), options_.versions_kept)->first;
    const std::size_t looks = std::min<std::size_t>(count - options_.versions_kept, kRetiringLooks);
    auto at = model.versions.upper_bound(model.looked_at);
    for (std::size_t look = 0; look < looks && changes.size() < kRetiredAtOnce; ++look, ++at) {
        if (at == model.versions.end() || at->first >= newest) at = model.versions.begin();
        model.looked_at = at->first;
        if (at->first == but_not || is_wanted(model, at->second)) continue;
        changes.push_back(VersionRetired{name, at->first, at->second.info.root});
    }
    return changes;
}

// What peers still say of it is about nothing.
void State::erase(Model& model, std::uint64_t number) {
    const auto at = model.versions.find(number);
    if (at == model.versions.end()) return;
    Version& version = at->second;
    WEIGHTCAST_ASSERT(!is_wanted(model, version));
    for (auto& [id, peer] : peers_) {
        peer.accused_in.erase(&version);
        std::erase_if(peer.distrusted, [&](const auto& entry) { return entry.first == &version; });
    }
    model.versions.erase(at);
    --counts_.versions;
}

std::vector<PeerSummary> State::list_peers(TimePoint now) const {
    std::vector<PeerSummary> peers;
    peers.reserve(peers_.size());
    for (const auto& [id, peer] : peers_) {
        PeerSummary& summary = peers.emplace_back();
        summary.peer = peer.ref;
        summary.name = peer.info.name;
        summary.host = peer.info.host;
        summary.addresses = peer.info.addresses;
        summary.readers = peer.readers;
        summary.quarantined = peer.accused;
        const auto left = peer.deadline - std::chrono::milliseconds(options_.grace_ms) - now;
        if (left > Duration::zero()) {
            summary.lease_left_ms = static_cast<std::uint64_t>(
                std::chrono::duration_cast<std::chrono::milliseconds>(left).count());
        }
        for (const auto& [version, held] : peer.holdings) {
            summary.holdings.push_back({held.holding.model, held.holding.version,
                                        held.holding.complete, held.holding.bytes_held});
        }
    }
    return peers;
}

}  // namespace weightcast::registry
