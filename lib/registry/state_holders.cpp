// Holdings, read leases and what readers report of holders.
#include <fmt/core.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/assert.h"
#include "base/numbers.h"
#include "registry/canary.h"
#include "registry/state.h"

namespace weightcast::registry {
namespace {

constexpr std::size_t kDistrustedMax = 4096;  // holders that one reader may never be hinted again

// Bit `bucket` of a bitmap in hexadecimal, bit i of byte i/8 first.
bool has_bucket(const std::string& buckets, std::uint64_t bucket) {
    const std::uint64_t digit = bucket / 8 * 2 + (bucket % 8 < 4 ? 1 : 0);
    if (digit >= buckets.size()) return false;
    const char c = buckets[static_cast<std::size_t>(digit)];
    const int nibble = c <= '9' ? c - '0' : c - 'a' + 10;
    return ((nibble >> (bucket % 4)) & 1) != 0;
}

std::uint32_t to_ms(Duration time) {
    return static_cast<std::uint32_t>(std::chrono::ceil<std::chrono::milliseconds>(time).count());
}

}  // namespace

void State::rank(const Peer& peer, Version& version, Held& held) {
    if (version.quarantined.contains(peer.ref.id)) return;
    held.rank = {!held.holding.complete && held.holding.bytes_held == 0, peer.readers,
                 random_.next(), peer.ref.id};
    version.ranked.insert(held.rank);
    version.by_host[peer.info.host].insert(held.rank);
    if (held.holding.complete) version.complete.insert(held.rank);
    held.ranked = true;
}

void State::unrank(const Peer& peer, Version& version, Held& held) {
    if (!held.ranked) return;
    version.ranked.erase(held.rank);
    version.complete.erase(held.rank);
    const auto host = version.by_host.find(peer.info.host);
    WEIGHTCAST_ASSERT(host != version.by_host.end());
    host->second.erase(held.rank);
    if (host->second.empty()) version.by_host.erase(host);
    held.ranked = false;
}

Result<void> State::check_may_hold(const Peer& peer) const {
    if (peer.holdings.size() < options_.holdings_per_peer_max) return success();
    return Error{Code::no_space, 0,
                 fmt::format("the limit of {} holdings per peer is reached by {}",
                             options_.holdings_per_peer_max, peer.info.name)};
}

Result<void> State::hold(const PeerRef& ref, const Holding& holding, TimePoint now) {
    WEIGHTCAST_TRY(Peer* const peer, find_peer(ref));
    WEIGHTCAST_TRY(Version* const version, find_version(holding.model, holding.version));
    if (holding.bytes_held > version->info.bytes) {
        return Error{
            Code::invalid_input, 0,
            fmt::format("bytes_held {} is more than the {} bytes of {}@{}", holding.bytes_held,
                        version->info.bytes, holding.model, holding.version)};
    }
    auto at = peer->holdings.find(version);
    if (at == peer->holdings.end()) {
        WEIGHTCAST_CHECK(check_may_hold(*peer));
        at = peer->holdings.emplace(version, Held{}).first;
        ++counts_.holdings;
    }
    unrank(*peer, *version, at->second);
    at->second.holding = holding;
    rank(*peer, *version, at->second);
    const auto has_manifest = [](const auto& keys) { return !keys.second.manifest.empty(); };
    if (at->second.ranked && std::ranges::any_of(holding.keys, has_manifest)) {
        version->manifest.add(ref.id);
    } else {
        version->manifest.remove(ref.id);
    }
    replan_holding(*peer, *version);
    const auto reads = [&](std::uint64_t id) { return pulls_.at(id).version == version; };
    if (!holding.complete && std::ranges::any_of(peer->pulls, reads)) gather(*peer, *version, now);
    return success();
}

bool State::is_last(const Peer& peer, Version& version) const {
    const auto held = peer.holdings.find(&version);
    if (held == peer.holdings.end() || !held->second.holding.complete) return false;
    const auto others = std::ranges::count_if(
        version.complete, [&](const Rank& rank) { return rank.peer != peer.ref.id; });
    if (others > 0) return false;
    const auto& channels = models_.at(version.info.model).channels;
    return std::ranges::any_of(
        channels, [&](const auto& entry) { return names(entry.second, version.info.version); });
}

Result<DropReply> State::drop(const DropRequest& request) {
    WEIGHTCAST_TRY(Peer* const peer, find_peer(request.peer));
    WEIGHTCAST_TRY(Version* const version, find_version(request.model, request.version));
    if (request.unless_last && is_last(*peer, *version)) {
        return Error{Code::conflict, 0,
                     fmt::format("{} has the last whole copy of {}@{}, which a channel names",
                                 peer->info.name, request.model, request.version)};
    }
    if (peer->holdings.contains(version)) remove_holding(*peer, *version);
    const auto reads_it = [&](const auto& entry) {
        const Pull& pull = entry.second;
        return pull.version == version && pull.hinted.contains(peer->ref.id);
    };
    return DropReply{static_cast<std::uint32_t>(std::ranges::count_if(pulls_, reads_it))};
}

void State::remove_holding(Peer& peer, Version& version) {
    const auto at = peer.holdings.find(&version);
    WEIGHTCAST_ASSERT(at != peer.holdings.end());
    unrank(peer, version, at->second);
    version.manifest.remove(peer.ref.id);
    peer.holdings.erase(at);
    --counts_.holdings;
    unplan(peer.ref.id, version);
}

void State::change_readers(std::uint64_t holder, bool more) {
    const auto found = peers_.find(holder);
    if (found == peers_.end()) return;
    Peer& peer = found->second;
    for (auto& [version, held] : peer.holdings) unrank(peer, *version, held);
    WEIGHTCAST_ASSERT(more || peer.readers > 0);
    peer.readers = more ? peer.readers + 1 : peer.readers - 1;
    for (auto& [version, held] : peer.holdings) rank(peer, *version, held);
}

std::vector<std::uint64_t> State::choose(const Peer& reader, const Version& version,
                                         std::span<const std::uint64_t> avoid,
                                         std::uint32_t count_max) const {
    std::set<std::uint64_t> passed(avoid.begin(), avoid.end());
    passed.insert(reader.ref.id);
    std::vector<std::uint64_t> chosen;
    bool any_complete = false;
    const auto usable = [&](std::uint64_t id) {
        return !passed.contains(id) && !reader.distrusted.contains({&version, id});
    };
    const auto take = [&](const std::set<Rank>& from) {
        for (const Rank& rank : from) {
            if (chosen.size() >= count_max) return;
            if (!usable(rank.peer)) continue;
            passed.insert(rank.peer);
            chosen.push_back(rank.peer);
            any_complete = any_complete || version.complete.contains(rank);
        }
    };
    const auto host = version.by_host.find(reader.info.host);
    if (host != version.by_host.end()) take(host->second);
    take(version.ranked);
    if (any_complete || chosen.empty()) return chosen;
    for (const Rank& rank : version.complete) {
        if (!usable(rank.peer)) continue;
        if (chosen.size() >= count_max) chosen.pop_back();
        chosen.push_back(rank.peer);
        break;
    }
    return chosen;
}

Grant State::new_grant(std::uint64_t id, const Pull& pull) const {
    Grant grant;
    grant.pull = id;
    grant.lease_ms = options_.lease_ms;
    grant.version = describe(*pull.version);
    grant.channel = pull.channel;
    grant.generation = pull.generation;
    return grant;
}

// All is as the reader knows it.
Grant State::acknowledgement(std::uint64_t id) const {
    Grant grant;
    grant.pull = id;
    grant.lease_ms = options_.lease_ms;
    grant.unchanged = true;
    return grant;
}

Grant State::grant_manifest(std::uint64_t id, Pull& pull, std::span<const std::uint64_t> avoid,
                            std::uint32_t count_max, TimePoint now) {
    Version& version = *pull.version;
    const Peer& reader = peers_.at(pull.peer);
    if (version.manifest.empty() || version.by_host.contains(reader.info.host) ||
        version.info.manifest_bytes < kManifestTurnBytes) {
        return fill_grant(id, pull, avoid, count_max);
    }
    const ManifestQueue::Turn turn = version.manifest.take(id, now);
    if (turn.holder == 0) {
        Grant grant = new_grant(id, pull);
        grant.manifest_ms = to_ms(turn.wait);
        return grant;
    }
    const bool trusted = !reader.distrusted.contains({&version, turn.holder});
    return fill_grant(id, pull, avoid, count_max, trusted ? turn.holder : 0);
}

Grant State::fill_grant(std::uint64_t id, Pull& pull, std::span<const std::uint64_t> avoid,
                        std::uint32_t count_max, std::uint64_t first) {
    for (const std::uint64_t failed : avoid) pull.hinted.erase(failed);
    Grant grant = choose_grant(id, pull, avoid, count_max, first);
    // It may go on reading from whom it was told of before.
    for (const HolderHint& hint : grant.holders) pull.hinted.insert(hint.peer.id);
    return grant;
}

Grant State::choose_grant(std::uint64_t id, Pull& pull, std::span<const std::uint64_t> avoid,
                          std::uint32_t count_max, std::uint64_t first) {
    for (const std::uint64_t holder : std::exchange(pull.holders, {})) {
        change_readers(holder, false);
    }
    Grant grant = new_grant(id, pull);
    count_max = std::min(count_max, options_.hints_max);
    if (pull.version->planning && pull.version->planning->forest.contains(pull.peer)) {
        fill_planned(grant, pull, avoid, count_max);
        return grant;
    }
    pull.holders = choose(peers_.at(pull.peer), *pull.version, avoid, count_max);
    if (first != 0) {
        std::erase(pull.holders, first);
        pull.holders.insert(pull.holders.begin(), first);
    }
    for (const std::uint64_t holder : pull.holders) change_readers(holder, true);
    for (const std::uint64_t holder : pull.holders) {
        grant.holders.push_back(hint_of(holder, *pull.version));
    }
    return grant;
}

HolderHint State::hint_of(std::uint64_t holder, Version& version) const {
    const Peer& peer = peers_.at(holder);
    HolderHint hint;
    hint.peer = peer.ref;
    hint.name = peer.info.name;
    hint.host = peer.info.host;
    hint.incarnation = peer.info.incarnation;
    hint.serve_rate_max = peer.info.serve_rate_max;
    hint.readers = peer.readers;
    hint.addresses = peer.info.addresses;
    hint.holding = peer.holdings.at(&version).holding;
    return hint;
}

Result<State::Pull> State::resolve(const PullRequest& request, const Peer& peer) {
    Pull pull;
    const std::string& text = request.reference;
    if (!text.empty() && text.front() == '@') {
        const auto number = parse_number(std::string_view(text).substr(1));
        if (!number) {
            return Error{Code::invalid_input, 0, fmt::format("{} is not @VERSION", text)};
        }
        WEIGHTCAST_TRY(pull.version, find_version(request.model, *number));
        return pull;
    }
    if (!text.empty() && text.front() != ':') {
        return Error{Code::invalid_input, 0,
                     fmt::format("{} is neither @VERSION nor :CHANNEL", text)};
    }
    pull.channel = text.empty() ? "stable" : text.substr(1);
    WEIGHTCAST_TRY(const Model* const model, known_model(request.model));
    const auto channel = model->channels.find(pull.channel);
    if (channel == model->channels.end()) {
        return Error{Code::not_found, 0,
                     fmt::format("model {} has no channel {}", request.model, pull.channel)};
    }
    pull.generation = channel->second.generation;
    const auto version = version_for(channel->second, peer.info.name, peer.info.labels);
    WEIGHTCAST_TRY(pull.version, find_version(request.model, version));
    return pull;
}

Result<Grant> State::open_pull(const PullRequest& request, TimePoint now) {
    WEIGHTCAST_TRY(Peer* const peer, find_peer(request.peer));
    if (peer->pulls.size() >= options_.pulls_per_peer_max) {
        return Error{Code::no_space, 0,
                     fmt::format("the limit of {} open pulls per peer is reached by {}",
                                 options_.pulls_per_peer_max, peer->info.name)};
    }
    WEIGHTCAST_TRY(Pull pull, resolve(request, *peer));
    pull.peer = peer->ref.id;
    const std::uint64_t id = next_id_++;
    peer->pulls.insert(id);
    Pull& kept = pulls_[id] = std::move(pull);
    counts_.pulls = pulls_.size();
    Version& version = *kept.version;
    ++version.pulls;
    // Who opens a pull is about to ask for its plan.
    if (version.planning && !version.planning->gathering.empty()) version.planning->last = now;
    return grant_manifest(id, kept, {}, request.holders_max, now);
}

Result<Grant> State::renew_pull(const RenewRequest& request, TimePoint now) {
    WEIGHTCAST_TRY(Peer* const reader, find_peer(request.peer));
    const auto found = pulls_.find(request.pull);
    if (found == pulls_.end() || found->second.peer != request.peer.id) {
        return Error{Code::stale, 0,
                     fmt::format("there is no read lease {} of peer {}: open a new pull",
                                 request.pull, request.peer.id)};
    }
    Pull& pull = found->second;
    Version& version = *pull.version;
    if (request.manifest) {
        return grant_manifest(request.pull, pull, request.avoid, request.holders_max, now);
    }
    version.manifest.done(request.pull, now);
    if (request.has_manifest) return acknowledgement(request.pull);
    const Duration wait = gather(*reader, version, now);
    if (wait > Duration::zero() && request.avoid.empty()) {
        Grant grant = new_grant(request.pull, pull);
        grant.plan_ms = to_ms(wait);
        return grant;
    }
    shun(*reader, version, request.avoid);
    note_rate(*reader, version, request.rate);
    Grant grant = fill_grant(request.pull, pull, request.avoid, request.holders_max);
    grant.plan_ms = to_ms(wait);
    if (grant.stripes != 0) grant.renew_ms = renew_ms_of(version, now);
    if (grant.digest == 0 || grant.digest != request.known || !request.avoid.empty()) return grant;
    Grant unchanged = acknowledgement(request.pull);
    unchanged.renew_ms = grant.renew_ms;
    return unchanged;
}

Result<void> State::close_pull(const CloseRequest& request) {
    WEIGHTCAST_CHECK(find_peer(request.peer));
    const auto found = pulls_.find(request.pull);
    if (found == pulls_.end() || found->second.peer != request.peer.id) return success();
    ++(request.completed ? counts_.completed_pulls : counts_.failed_pulls);
    counts_.bytes_pulled += request.bytes_read;
    remove_pull(request.pull);
    return success();
}

void State::remove_pull(std::uint64_t id) {
    const auto found = pulls_.find(id);
    WEIGHTCAST_ASSERT(found != pulls_.end());
    for (const std::uint64_t holder : found->second.holders) change_readers(holder, false);
    Peer& reader = peers_.at(found->second.peer);
    Version& version = *found->second.version;
    version.manifest.forget(id);
    --version.pulls;
    reader.pulls.erase(id);
    pulls_.erase(found);
    counts_.pulls = pulls_.size();
    const auto held = reader.holdings.find(&version);
    if (held == reader.holdings.end() || !held->second.holding.complete) {
        unplan(reader.ref.id, version);
    }
}

void State::accuse(const Peer& reporter, Peer& holder, Version& version) {
    auto& accusers = version.accusers[holder.ref.id];
    if (!accusers.insert(reporter.info.name).second) return;
    ++holder.accused;
    holder.accused_in.insert(&version);
    if (accusers.size() < options_.accusers_to_quarantine) return;
    if (!version.quarantined.insert(holder.ref.id).second) return;
    const auto held = holder.holdings.find(&version);
    if (held != holder.holdings.end()) unrank(holder, version, held->second);
    version.manifest.remove(holder.ref.id);
    unplan(holder.ref.id, version);
    ++counts_.quarantines;
    events_.push_back({.kind = EventKind::holder_quarantined,
                       .model = version.info.model,
                       .version = version.info.version,
                       .peer = holder.ref.id,
                       .name = holder.info.name,
                       .detail = "readers report corrupt bytes"});
}

Result<std::vector<Change>> State::report(const HolderReport& report) {
    WEIGHTCAST_TRY(Peer* const reporter, find_peer(report.reporter));
    WEIGHTCAST_TRY(Version* const version, find_version(report.model, report.version));
    ++counts_.reports;
    std::vector<Change> changes;
    if (report.kind == ReportKind::source_changed) {
        if (report.holder != reporter->ref.id) {
            return Error{Code::refused, 0, "only a holder itself may say that its source changed"};
        }
        if (reporter->holdings.contains(version)) remove_holding(*reporter, *version);
        if (version->complete.empty() && !version->info.quarantined) {
            changes.push_back(QuarantineSet{report.model, report.version, true});
        }
        events_.push_back({.kind = EventKind::holder_quarantined,
                           .model = report.model,
                           .version = report.version,
                           .peer = reporter->ref.id,
                           .name = reporter->info.name,
                           .detail = "its source changed"});
        return changes;
    }
    const auto holder = peers_.find(report.holder);
    if (holder == peers_.end() || holder->first == reporter->ref.id) return changes;
    if (report.kind == ReportKind::corrupt) {
        if (reporter->distrusted.size() < kDistrustedMax) {
            reporter->distrusted.emplace(version, report.holder);
        }
        accuse(*reporter, holder->second, *version);
    }
    return changes;
}

Result<std::vector<PeerRef>> State::holders_of_bucket(const std::string& model,
                                                      std::uint64_t number, std::uint64_t bucket,
                                                      std::size_t count_max) const {
    WEIGHTCAST_TRY(const Version* const version, find_version(model, number));
    if (bucket >= version->info.bucket_count) {
        return Error{Code::invalid_input, 0,
                     fmt::format("{}@{} has {} buckets, there is no bucket {}", model, number,
                                 version->info.bucket_count, bucket)};
    }
    std::vector<PeerRef> holders;
    for (const Rank& rank : version->ranked) {
        if (holders.size() >= count_max) break;
        const Peer& peer = peers_.at(rank.peer);
        const Holding& holding = peer.holdings.at(const_cast<Version*>(version)).holding;
        if (holding.complete || has_bucket(holding.buckets, bucket)) holders.push_back(peer.ref);
    }
    return holders;
}

}  // namespace weightcast::registry
