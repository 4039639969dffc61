// Whom a reader is sent to: its own host, its rack, another rack, in this order.
#include <fmt/core.h>

#include <algorithm>
#include <optional>

#include "plan/forest.h"

namespace weightcast::plan {
namespace {

constexpr std::size_t kOvercommittedTried = 64;  // for one in the reader's rack

}  // namespace

// True if `id` reads the stripe from `ancestor`, perhaps through others.
bool Forest::below(MemberId id, MemberId ancestor, std::uint32_t stripe) const {
    while (id != kNobody && id != ancestor) id = node(id).parents[stripe];
    return id == ancestor;
}

bool Forest::suits(const Node& reader, const Node& holder, std::uint32_t stripe) const {
    const MemberId id = holder.member.id;
    if (!holder.member.relays || id == reader.member.id || reader.shunned.contains(id)) {
        return false;
    }
    if (holder.member.complete) return true;
    // Who joined later has less, and who has no parent gets no more.
    if (holder.batch > reader.batch || holder.parents[stripe] == kNobody) return false;
    return reader.children[stripe].empty() || !below(id, reader.member.id, stripe);
}

// A host's memory is taken to be as fast as all its ports.
bool Forest::serves_on_host(const Node& holder, const Node& reader, std::uint32_t stripe) const {
    return holder.host_used < stripes() && suits(reader, holder, stripe);
}

MemberId Forest::find_on_host(const Node& reader, std::uint32_t stripe) const {
    if (reader.host == nullptr) return kNobody;
    const MemberId known = reader.host->importers[stripe];
    // Without one that imports it, only who has everything has it.
    if (known == kNobody && reader.host->complete == 0) return kNobody;
    const auto importer = nodes_.find(known);
    if (importer != nodes_.end() && serves_on_host(importer->second, reader, stripe)) {
        return importer->first;
    }
    std::optional<Offer> best;
    for (const MemberId id : reader.host->members) {
        const Node& holder = node(id);
        if (!serves_on_host(holder, reader, stripe)) continue;
        Offer candidate = offer_of(holder, stripe);
        candidate.due = 0;
        candidate.used = holder.host_used;
        if (!best || candidate < *best) best = candidate;
    }
    return best ? best->holder->member.id : kNobody;
}

const Forest::Offer* Forest::best_offer(const Node& reader, const Rack& rack,
                                        std::uint32_t stripe) const {
    const auto& offers = rack.offers[stripe];
    const auto found = std::find_if(offers.begin(), offers.end(), [&](const Offer& offer) {
        const Node& holder = *offer.holder;
        // Readers on its own host are not part of the room that it offers here.
        if (is_local(holder, reader)) return serves_on_host(holder, reader, stripe);
        return suits(reader, holder, stripe);
    });
    return found == offers.end() ? nullptr : &*found;
}

MemberId Forest::find_elsewhere(const Node& reader, std::uint32_t stripe) const {
    if (reader.rack->imports >= rack_slots_) return kNobody;
    std::optional<std::pair<bool, Offer>> best;
    for (const auto& [name, rack] : racks_) {
        if (&rack == reader.rack) continue;
        if (rack.exported >= rack_slots_) continue;
        // As with members: a rack with a source has its part of every stripe to give, the others
        // are interior in one.
        const bool spare = rack.complete > 0
                               ? rack.exports[stripe] >= std::max(1U, rack_slots_ / stripes())
                               : rack.preferred != stripe % share();
        const Offer* const offer = best_offer(reader, rack, stripe);
        if (offer == nullptr) continue;
        const std::pair<bool, Offer> candidate{spare, *offer};
        if (!best || candidate < *best) best = candidate;
    }
    return best ? best->second.holder->member.id : kNobody;
}

// Nobody has room, or no uplink: of those with the least to do the deepest, so that it slows few,
// if possible in the reader's rack.
MemberId Forest::find_overcommitted(const Node& reader, std::uint32_t stripe) const {
    const auto key = [&](const Load& load, const Node& holder) {
        return std::make_tuple(holder.rack != reader.rack, std::get<0>(load), std::get<1>(load),
                               -static_cast<std::int64_t>(holder.depths[stripe]));
    };
    const Node* best = nullptr;
    std::optional<decltype(key(*loads_.begin(), *best))> best_key;
    std::size_t tried = 0;
    for (const Load& load : loads_) {
        if (best != nullptr && ++tried > kOvercommittedTried) break;
        const Node& holder = node(std::get<3>(load));
        if (!suits(reader, holder, stripe)) continue;
        const auto candidate = key(load, holder);
        if (best_key && *best_key <= candidate) continue;
        best = &holder;
        best_key = candidate;
    }
    return best == nullptr ? kNobody : best->member.id;
}

MemberId Forest::find_parent(const Node& reader, std::uint32_t stripe) const {
    if (const MemberId near = find_on_host(reader, stripe); near != kNobody) return near;
    const Offer* const offer = best_offer(reader, *reader.rack, stripe);
    if (offer != nullptr) return offer->holder->member.id;
    return find_elsewhere(reader, stripe);
}

std::string Forest::check() const {
    for (const auto& [id, n] : nodes_) {
        std::uint32_t readers = 0;
        for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
            std::set<std::uint32_t> turns{0};
            for (const MemberId child : n.children[stripe]) {
                ++readers;
                if (!is_local(n, node(child)) && !turns.insert(turn(child, stripe)).second) {
                    return fmt::format("{} has the turn of another", child);
                }
                if (!contains(child) || node(child).parents[stripe] != id) {
                    return fmt::format("{} has a reader {} that does not read from it", id, child);
                }
            }
            if (n.member.complete) continue;
            const MemberId parent = n.parents[stripe];
            if (parent == kNobody) {
                if (orphans_.contains({id, stripe})) continue;
                return fmt::format("{} has no parent in stripe {} and is no orphan", id, stripe);
            }
            if (!contains(parent)) return fmt::format("{} reads from {}, who left", id, parent);
            if (n.depths[stripe] != node(parent).depths[stripe] + 1) {
                return fmt::format("{} has a wrong depth in stripe {}", id, stripe);
            }
            if (below(parent, id, stripe)) return fmt::format("{} reads from itself", id);
        }
        if (readers != n.used + n.host_used) return fmt::format("{} counts its readers wrong", id);
    }
    return {};
}

}  // namespace weightcast::plan
