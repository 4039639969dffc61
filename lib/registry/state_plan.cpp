// The plan of a version: a forest of those who read it and those who have it all.
#include <algorithm>

#include "registry/state.h"

namespace weightcast::registry {
namespace {

constexpr std::size_t kAncestorsMax = 8;  // hinted to a reader
// So that no more than 1000 renewals a second come, or 10000 while a fleet starts and is planned
// anew.
constexpr std::uint32_t kRenewMsPerReader = 1;
constexpr std::uint32_t kRenewMsMin = 250;
constexpr std::uint32_t kFreshReadersPerRenewMs = 10;
constexpr std::uint32_t kFreshRenewMsMin = 40;
// While a fleet starts, all are planned anew with those that come: the head start that they lose is
// short, and the plan is better, above all in racks.
constexpr auto kFreshFor = std::chrono::milliseconds(500);
constexpr std::size_t kReplannedMax = 16;  // times as many as come
constexpr double kSlowOfMedian = 0.45;
constexpr std::uint32_t kSlowTimes = 2;  // in a row
// A reader that did not renew for so long is out of the plan: others may have its room.
constexpr double kMissedRenewals = 3;
constexpr std::uint32_t kRenewalSlackMs = 1000;
constexpr std::size_t kAccusersMin = 2;  // readers, to take a holder for gone
constexpr std::size_t kRatesMin = 3;     // known, to tell who is slow
constexpr std::size_t kOthersMax = 2;    // holders beyond parents and ancestors

// Of what a reader makes of these holders and can be changed. Never 0.
std::uint64_t digest_of(const Grant& grant) {
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, by words
    const auto add = [&hash](std::uint64_t word) {
        hash = (hash ^ word) * 0x100000001b3;
        hash ^= hash >> 32U;
    };
    add(grant.stripes);
    for (const HolderHint& hint : grant.holders) {
        add(hint.peer.id);
        for (const std::uint32_t stripe : hint.stripes) add(stripe);
        add(hint.ancestor ? 1 : 0);
        add(hint.turn);
        add(hint.serve_rate_max);
        add(hint.serve_rate_max == 0 ? 0 : hint.readers);
        add(hint.holding.keys.size());
        add(hint.holding.extents.size());
        add(hint.holding.complete ? 1 : 0);
    }
    return std::max<std::uint64_t>(hash, 1);
}

}  // namespace

plan::Member State::member_of(const Peer& peer, Version& version) const {
    plan::Member member;
    member.id = peer.ref.id;
    member.host = peer.info.host;
    const Placement& placement = options_.placement;
    const auto rack = peer.info.labels.find(placement.rack_label);
    if (rack != peer.info.labels.end()) member.rack = rack->second;
    member.rate = static_cast<double>(peer.info.port_rate);
    if (const auto known = placement.hosts.find(member.host); known != placement.hosts.end()) {
        member.rack = known->second.rack;
        if (known->second.port_rate > 0) member.rate = static_cast<double>(known->second.port_rate);
    }
    const auto cap = static_cast<double>(peer.info.serve_rate_max);
    if (cap > 0) member.rate = member.rate > 0 ? std::min(member.rate, cap) : cap;
    const auto held = peer.holdings.find(&version);
    member.relays = held != peer.holdings.end() && !version.quarantined.contains(peer.ref.id);
    member.complete = member.relays && held->second.holding.complete;
    return member;
}

Duration State::gather(const Peer& reader, Version& version, TimePoint now) {
    const std::uint64_t id = reader.ref.id;
    if (!version.planning) {
        std::vector<plan::Member> sources;
        for (const Rank& rank : version.complete) {
            sources.push_back(member_of(peers_.at(rank.peer), version));
        }
        plan::ForestOptions options = plan::options_for(member_of(reader, version).rate, sources, 1,
                                                        options_.stripes_min, options_.stripes_max);
        options.rack_rate = options_.placement.rack_rate;
        version.planning = std::make_unique<Planning>(options);
        version.planning->forest.join(sources);
    }
    Planning& planning = *version.planning;
    while (const std::uint64_t silent = planning.renewals.take_overdue(now))
        expel(silent, planning);
    if (planning.forest.contains(id)) {
        planning.accusers.erase(id);
        expect_renewal(id, version, now);
        if (reader.holdings.contains(&version)) planning.forest.relay(id);
        return Duration::zero();
    }
    auto& gathering = planning.gathering;
    if (std::find(gathering.begin(), gathering.end(), id) == gathering.end()) {
        if (gathering.empty()) planning.since = now;
        planning.last = now;
        gathering.push_back(id);
    }
    const bool all_came = gathering.size() + planning.forest.readers_in_all() >= version.pulls;
    const std::uint32_t wait_ms = all_came ? options_.gather_ms_all : options_.gather_ms;
    const TimePoint end =
        std::min(planning.since + std::chrono::milliseconds(options_.gather_ms_max),
                 planning.last + std::chrono::milliseconds(wait_ms));
    if (now < end) return end - now;
    plan_gathered(version, now);
    return Duration::zero();
}

void State::plan_gathered(Version& version, TimePoint now) {
    Planning& planning = *version.planning;
    ++counts_.plans;
    std::vector<plan::Member> members;
    for (const std::uint64_t id : std::exchange(planning.gathering, {})) {
        members.push_back(member_of(peers_.at(id), version));
        expect_renewal(id, version, now);
    }
    if (planning.forest.readers_in_all() == 0) planning.started = now;
    const plan::ForestOptions options = plan::with_readers(
        planning.forest.options(), planning.forest.readers_in_all() + members.size(),
        planning.forest.ranks_per_host(members), options_.stripes_max);
    const bool fresh = now - planning.started < kFreshFor &&
                       planning.forest.readers_in_all() < kReplannedMax * members.size();
    if (fresh) {
        planning.forest.join_and_replan(members, options);
    } else {
        planning.forest.join(members);
    }
}

std::uint32_t State::renew_ms_of(const Version& version, TimePoint now) const {
    const Planning& planning = *version.planning;
    const auto readers = static_cast<std::uint32_t>(planning.forest.readers_in_all());
    const std::uint32_t ms = now - planning.started < kFreshFor
                                 ? std::max(readers / kFreshReadersPerRenewMs, kFreshRenewMsMin)
                                 : std::max(readers * kRenewMsPerReader, kRenewMsMin);
    return std::min(ms, options_.lease_ms / 4);
}

void State::expect_renewal(std::uint64_t peer, Version& version, TimePoint now) {
    const std::uint32_t each = std::max(renew_ms_of(version, now), kRenewMsMin);
    const double ms = kMissedRenewals * each + kRenewalSlackMs;
    version.planning->renewals.set(peer,
                                   now + std::chrono::milliseconds(static_cast<std::int64_t>(ms)));
}

// Takes it out of the plan, until it is heard of again.
void State::expel(std::uint64_t peer, Planning& planning) {
    planning.accusers.erase(peer);
    planning.rates.erase(peer);
    planning.slow.erase(peer);
    planning.renewals.forget(peer);
    planning.forest.leave(peer);
}

// The peer holds the version now, or has all of it.
void State::replan_holding(const Peer& peer, Version& version) {
    if (!version.planning) return;
    plan::Forest& forest = version.planning->forest;
    const plan::Member member = member_of(peer, version);
    if (forest.contains(member.id)) {
        if (member.complete) {
            version.planning->renewals.forget(member.id);
            forest.finish(member.id);
        }
        if (member.relays) forest.relay(member.id);
        forest.relieve();
    } else if (member.complete) {
        forest.join({&member, 1});
    }
}

void State::disconnected(std::uint64_t peer) {
    const auto found = peers_.find(peer);
    if (found == peers_.end()) return;
    for (const std::uint64_t id : found->second.pulls) {
        Version& version = *pulls_.at(id).version;
        version.manifest.forget(id);
        if (!version.planning) continue;
        Planning& planning = *version.planning;
        std::erase(planning.gathering, peer);
        if (!planning.forest.contains(peer) || planning.forest.complete(peer)) continue;
        expel(peer, planning);
        ++counts_.readers_disconnected;
    }
}

void State::unplan(std::uint64_t peer, Version& version) {
    if (!version.planning) return;
    Planning& planning = *version.planning;
    std::erase(planning.gathering, peer);
    expel(peer, planning);
    if (planning.forest.readers_in_all() == 0 && planning.gathering.empty()) {
        version.planning.reset();
    }
}

// A reader that gets much less than most, though those that it reads from do not, becomes a leaf.
// With two stripes or more those behind it still get the other stripes, so that it stands out.
void State::note_rate(const Peer& reader, Version& version, double rate) {
    if (!version.planning || rate <= 0) return;
    Planning& planning = *version.planning;
    const plan::Forest& forest = planning.forest;
    const std::uint64_t id = reader.ref.id;
    if (!forest.contains(id) || forest.complete(id)) return;
    planning.rates[id] = rate;
    if (planning.rates.size() < kRatesMin || forest.readers(id) == 0) return;
    std::vector<double> rates;
    for (const auto& [peer, value] : planning.rates) rates.push_back(value);
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    bool fed = true;
    for (std::uint32_t stripe = 0; stripe < forest.stripes(); ++stripe) {
        const std::uint64_t parent = forest.parent(id, stripe);
        const auto known = planning.rates.find(parent);
        fed = fed && parent != plan::kNobody &&
              (forest.complete(parent) ||
               (known != planning.rates.end() && known->second > kSlowOfMedian * *middle));
    }
    std::uint32_t& times = planning.slow[id];
    times = fed && rate < kSlowOfMedian * *middle ? times + 1 : 0;
    if (times >= kSlowTimes) planning.forest.demote(id);
}

// A reader cannot reach a holder. If all that read from it say so, or two of them, it is out of the
// plan until it is heard of; else it only gets no more readers.
void State::suspect(std::uint64_t reader, Version& version, std::uint64_t holder) {
    Planning& planning = *version.planning;
    if (!planning.forest.contains(holder)) return;
    std::set<std::uint64_t>& accusers = planning.accusers[holder];
    accusers.insert(reader);
    const bool alone = planning.forest.only_reader(holder, reader);
    if (!planning.forest.complete(holder) && (alone || accusers.size() >= kAccusersMin)) {
        expel(holder, planning);
        return;
    }
    planning.forest.suspend(holder);
    planning.forest.part(reader, holder);
}

// A reader cannot read from these, or was lied to.
void State::shun(const Peer& reader, Version& version, std::span<const std::uint64_t> avoid) {
    if (!version.planning || !version.planning->forest.contains(reader.ref.id)) return;
    Planning& planning = *version.planning;
    const std::uint64_t id = reader.ref.id;
    if (planning.forest.complete(id)) return;
    for (std::uint32_t stripe = 0; stripe < planning.forest.stripes(); ++stripe) {
        const std::uint64_t parent = planning.forest.parent(id, stripe);
        if (parent == plan::kNobody) continue;
        if (reader.distrusted.contains({&version, parent})) planning.forest.part(id, parent);
        if (std::find(avoid.begin(), avoid.end(), parent) != avoid.end()) {
            suspect(id, version, parent);
        }
    }
    planning.forest.adopt_orphans();
}

void State::fill_planned(Grant& grant, Pull& pull, std::span<const std::uint64_t> avoid,
                         std::uint32_t count_max) {
    Version& version = *pull.version;
    const plan::Forest& forest = version.planning->forest;
    const Peer& reader = peers_.at(pull.peer);
    grant.stripes = forest.stripes();
    std::vector<std::uint64_t> passed(avoid.begin(), avoid.end());
    const auto is_new = [&](std::uint64_t id) {
        if (id == plan::kNobody || id == pull.peer) return false;
        if (std::find(passed.begin(), passed.end(), id) != passed.end()) return false;
        passed.push_back(id);
        return !reader.distrusted.contains({&version, id});
    };
    for (std::uint32_t stripe = 0; !forest.complete(pull.peer) && stripe < forest.stripes();
         ++stripe) {
        const std::uint64_t parent = forest.parent(pull.peer, stripe);
        const auto known =
            std::find_if(grant.holders.begin(), grant.holders.end(),
                         [&](const HolderHint& hint) { return hint.peer.id == parent; });
        if (known != grant.holders.end()) {
            known->stripes.push_back(stripe);
        } else if (is_new(parent)) {
            change_readers(parent, true);
            pull.holders.push_back(parent);
            grant.holders.push_back(hint_of(parent, version));
            grant.holders.back().stripes.push_back(stripe);
            grant.holders.back().turn = forest.turn(pull.peer, stripe);
        }
    }
    const std::size_t parents = grant.holders.size();
    bool from_source = false;
    for (std::size_t i = 0; i < parents; ++i) {
        const std::uint64_t parent = grant.holders[i].peer.id;
        if (forest.complete(parent)) {
            from_source = true;
            continue;
        }
        for (const std::uint32_t stripe : grant.holders[i].stripes) {
            const std::uint64_t above = forest.parent(parent, stripe);
            if (grant.holders.size() >= parents + kAncestorsMax || !is_new(above)) continue;
            grant.holders.push_back(hint_of(above, version));
            grant.holders.back().ancestor = true;
        }
    }
    grant.digest = digest_of(grant);
    const std::size_t planned = grant.holders.size();
    const auto room = static_cast<std::uint32_t>(
        planned >= count_max ? 0 : std::min<std::size_t>(count_max - planned, kOthersMax));
    for (const std::uint64_t other : choose(reader, version, passed, room)) {
        grant.holders.push_back(hint_of(other, version));
        // A source has no parent to turn to, but equals.
        grant.holders.back().ancestor =
            from_source && peers_.at(other).holdings.at(&version).holding.complete;
    }
}

}  // namespace weightcast::registry
