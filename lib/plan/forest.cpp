// Members, their room and what changes when they come and go. The search: forest_search.cpp; in
// which turn the stripes come: forest_turns.cpp; how many there are: forest_options.cpp.
#include "plan/forest.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/assert.h"

namespace weightcast::plan {

std::uint32_t Forest::ranks_per_host(std::span<const Member> joining) const {
    std::map<std::string_view, std::size_t> readers;
    std::size_t most = 1;
    for (const auto& [name, host] : hosts_) {
        readers[name] = host.members.size() - host.complete;
        most = std::max(most, readers[name]);
    }
    for (const Member& member : joining) {
        if (member.complete || member.host.empty() || contains(member.id)) continue;
        most = std::max(most, ++readers[member.host]);
    }
    return static_cast<std::uint32_t>(most);
}

Forest::Forest(const ForestOptions& options)
    : options_(options),
      rack_slots_(options.rack_rate > 0 ? std::max(1U, slots_at(options.rack_rate))
                                        : options.stripes) {
    WEIGHTCAST_ASSERT(options.stripes >= 1 && options.stripes <= kStripesMax);
    WEIGHTCAST_ASSERT(options.ranks_per_host >= 1);
    WEIGHTCAST_ASSERT(options.stripes % options.ranks_per_host == 0);
}

MemberId Forest::parent(MemberId id, std::uint32_t stripe) const {
    return node(id).parents[stripe];
}

std::uint32_t Forest::turn(MemberId id, std::uint32_t stripe) const {
    const Node& reader = node(id);
    const MemberId parent = reader.parents[stripe];
    return parent == kNobody ? 0 : reader.turns[stripe] - node(parent).turns[stripe];
}

std::uint32_t Forest::depth(MemberId id, std::uint32_t stripe) const {
    return node(id).depths[stripe];
}

bool Forest::only_reader(MemberId id, MemberId reader) const {
    for (const auto& readers : node(id).children) {
        for (const MemberId child : readers) {
            if (child != reader) return false;
        }
    }
    return true;
}

// Of a port of `rate` bytes/s.
std::uint32_t Forest::slots_at(double rate) const {
    if (rate <= 0 || options_.port_rate <= 0) return share();
    // A port a little below the others is as good as they are.
    const double slots = std::floor(share() * rate / options_.port_rate + 0.1);
    return static_cast<std::uint32_t>(std::min(slots, 1e6));
}

std::uint32_t Forest::slots_of(const Member& member) const {
    return member.relays ? slots_at(member.rate) : 0;
}

// Stripes of its own first: what is beyond them is spare.
Forest::Offer Forest::offer_of(const Node& node, std::uint32_t stripe) const {
    Offer offer;
    offer.spare = node.member.complete
                      ? node.children[stripe].size() >= std::max(1U, node.slots / stripes())
                      : !is_interior(node, stripe);
    offer.depth = node.depths[stripe];
    offer.due = node.turns[stripe] + node.feeds[stripe];
    offer.used = node.used;
    offer.order = node.order;
    offer.holder = &node;
    return offer;
}

Forest::Load Forest::load_of(const Node& node) const {
    const double load = static_cast<double>(node.used) / std::max(1U, node.slots);
    const double local = static_cast<double>(node.host_used) / stripes();
    return {std::max(load, local), node.member.complete, ~node.order, node.member.id};
}

void Forest::offer(Node& node) {
    node.offered = true;
    if (!node.member.relays) return;
    loads_.insert(load_of(node));
    if (node.used >= node.slots) return;
    Rack& rack = *node.rack;
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        if (node.owns[stripe]) rack.offers[stripe].insert(offer_of(node, stripe));
    }
}

// Before anything changes that an offer is made of.
void Forest::withdraw(Node& node) {
    if (!std::exchange(node.offered, false) || !node.member.relays) return;
    loads_.erase(load_of(node));
    if (node.used >= node.slots) return;
    Rack& rack = *node.rack;
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        if (node.owns[stripe]) rack.offers[stripe].erase(offer_of(node, stripe));
    }
}

// Here and below.
void Forest::set_place(Node& top, std::uint32_t stripe, std::uint32_t depth, std::uint32_t turn) {
    struct Place {
        Node* node;
        std::uint32_t depth;
        std::uint32_t turn;
    };
    std::vector<Place> todo{{&top, depth, turn}};
    while (!todo.empty()) {
        const Place place = todo.back();
        Node& node = *place.node;
        todo.pop_back();
        if (node.depths[stripe] == place.depth && node.turns[stripe] == place.turn) continue;
        const std::uint32_t before = node.turns[stripe];
        auto& offers = node.rack->offers[stripe];
        const bool offered = offers_in(node, stripe);
        if (offered) offers.erase(offer_of(node, stripe));
        node.depths[stripe] = place.depth;
        node.turns[stripe] = place.turn;
        if (offered) offers.insert(offer_of(node, stripe));
        if (!node.offered) offer(node);
        for (const MemberId id : node.children[stripe]) {
            Node& child = nodes_.at(id);
            todo.push_back({&child, place.depth + 1, place.turn + child.turns[stripe] - before});
        }
    }
}

bool Forest::is_local(const Node& holder, const Node& reader) {
    return holder.host != nullptr && holder.host == reader.host;
}

// Applies `change` to what the holder's readers use of it.
template <typename Change>
void Forest::use(Node& holder, const Node& reader, const Change& change) {
    // Offers tell nothing of readers on the same host, of which there may be many.
    const bool same_offers = is_local(holder, reader) && !holder.member.complete && holder.offered;
    if (!same_offers) {
        withdraw(holder);
        change(is_local(holder, reader) ? holder.host_used : holder.used);
        offer(holder);
        return;
    }
    std::set<Load>::node_type load;
    if (holder.member.relays) load = loads_.extract(load_of(holder));
    change(holder.host_used);
    if (load.empty()) return;
    load.value() = load_of(holder);
    loads_.insert(std::move(load));
}

void Forest::attach(Node& reader, std::uint32_t stripe, MemberId parent) {
    Node& holder = node(parent);
    use(holder, reader, [&](std::uint32_t& used) {
        holder.children[stripe].push_back(reader.member.id);
        ++used;
        if (!is_local(holder, reader)) ++holder.feeds[stripe];
    });
    if (!is_local(holder, reader) && reader.host != nullptr) {
        reader.host->importers[stripe] = reader.member.id;
    }
    if (holder.rack != reader.rack) {
        ++holder.rack->exports[stripe];
        ++holder.rack->exported;
        ++reader.rack->imports;
    }
    reader.parents[stripe] = parent;
    orphans_.erase({reader.member.id, stripe});
    set_place(reader, stripe, holder.depths[stripe] + 1,
              holder.turns[stripe] + free_turn(holder, reader, stripe));
}

void Forest::detach(Node& reader, std::uint32_t stripe) {
    const MemberId parent = std::exchange(reader.parents[stripe], kNobody);
    orphans_.erase({reader.member.id, stripe});
    if (parent == kNobody) return;
    Node& holder = node(parent);
    use(holder, reader, [&](std::uint32_t& used) {
        std::erase(holder.children[stripe], reader.member.id);
        --used;
        if (!is_local(holder, reader)) --holder.feeds[stripe];
    });
    if (holder.rack != reader.rack) {
        --holder.rack->exports[stripe];
        --holder.rack->exported;
        --reader.rack->imports;
    }
}

bool Forest::place_with_room(Node& reader, std::uint32_t stripe, std::vector<Assignment>& changes) {
    if (reader.member.complete) return true;
    detach(reader, stripe);
    const MemberId parent = find_parent(reader, stripe);
    if (parent == kNobody) return false;
    attach(reader, stripe, parent);
    changes.push_back({reader.member.id, stripe, parent});
    return true;
}

void Forest::place(Node& reader, std::uint32_t stripe, std::vector<Assignment>& changes) {
    if (place_with_room(reader, stripe, changes)) return;
    const MemberId parent = find_overcommitted(reader, stripe);
    if (parent == kNobody) {
        orphans_.emplace(reader.member.id, stripe);
    } else {
        attach(reader, stripe, parent);
    }
    changes.push_back({reader.member.id, stripe, parent});
}

// The readers of a host own the stripes in turn, G/R times k/G of them each if there are R. The
// hosts of a rack are interior in different ones of those.
void Forest::deal_stripes(std::span<Node* const> joined) {
    std::vector<std::uint32_t> ranks;  // of each node, in its host
    for (Node* node : joined) {
        std::uint32_t& ordinals = node->rack->hosts;
        ranks.push_back(0);
        if (node->host == nullptr) {
            node->preferred = ordinals++ % share();
            continue;
        }
        Host& host = *node->host;
        if (node->member.complete) continue;
        if (host.ranks == 0) host.ordinal = ordinals++;
        ranks.back() = host.ranks++;
        node->preferred = host.ordinal % share();
    }
    for (std::size_t i = 0; i < joined.size(); ++i) {
        const bool shares = joined[i]->host != nullptr && !joined[i]->member.complete;
        const std::uint32_t owners = shares ? joined[i]->host->ranks : 1;
        joined[i]->owns.resize(stripes());
        for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
            joined[i]->owns[stripe] = stripe / share() % owners == ranks[i];
        }
    }
}

std::vector<Forest::Node*> Forest::add(std::span<const Member> members) {
    ++batch_;
    std::vector<Node*> joined;
    for (const Member& member : members) {
        WEIGHTCAST_ASSERT(member.id != kNobody);
        if (contains(member.id)) continue;
        Node& node = nodes_[member.id];
        node.member = member;
        node.batch = batch_;
        node.order = next_order_++;
        node.slots = slots_of(member);
        node.parents.assign(stripes(), kNobody);
        node.depths.assign(stripes(), 0);
        node.feeds.assign(stripes(), 0);
        // A source begins with the first chunk of each stripe in turn.
        node.turns.resize(stripes());
        std::iota(node.turns.begin(), node.turns.end(), 0U);
        node.children.resize(stripes());
        Rack& rack = racks_[member.rack];
        node.rack = &rack;
        if (rack.offers.empty()) {
            rack.ordinal = static_cast<std::uint32_t>(racks_.size() - 1);
            rack.preferred = rack.ordinal % share();
            rack.offers.resize(stripes());
            rack.exports.resize(stripes());
        }
        ++rack.members;
        if (member.complete) ++rack.complete;
        if (!member.complete) ++reading_;
        if (!member.host.empty()) {
            Host& host = hosts_[member.host];
            node.host = &host;
            host.importers.resize(stripes());
            host.members.insert(member.id);
            if (member.complete) ++host.complete;
        }
        joined.push_back(&node);
    }
    deal_stripes(joined);
    return joined;
}

// Those that will have readers first, rack by rack, the fast before the slow. Hosts and racks that
// have the bytes already come first, so that their members' room is not given to others.
std::vector<Forest::Node*> Forest::in_order(std::vector<Node*> joined, std::uint32_t stripe) const {
    const auto key = [&](const Node& node) {
        const bool owner = node.member.relays && node.owns[stripe];
        const bool interior = node.slots > 0 && is_interior(node, stripe);
        const bool near = node.host != nullptr && node.host->complete > 0;
        return std::make_tuple(!interior, !owner, !near, node.rack->complete == 0,
                               node.rack->imports == 0, node.rack->preferred != stripe % share(),
                               node.rack->ordinal, -static_cast<std::int64_t>(node.slots),
                               node.order);
    };
    std::vector<std::pair<decltype(key(*joined[0])), Node*>> keyed;
    keyed.reserve(joined.size());
    for (Node* node : joined) keyed.emplace_back(key(*node), node);
    std::sort(keyed.begin(), keyed.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    std::transform(keyed.begin(), keyed.end(), joined.begin(),
                   [](const auto& one) { return one.second; });
    return joined;
}

std::vector<Assignment> Forest::join(std::span<const Member> members) {
    std::vector<Assignment> changes;
    const std::vector<Node*> joined = add(members);
    bool source = false;
    for (Node* node : joined) {
        if (!node->member.complete) continue;
        offer(*node);
        source = true;
    }
    // All stripes grow together: those who are there already may have little room, and each stripe
    // needs some of it to begin with.
    std::vector<std::vector<Node*>> orders;
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        orders.push_back(in_order(joined, stripe));
    }
    std::vector<std::pair<Node*, std::uint32_t>> later;
    for (std::size_t i = 0; i < joined.size(); ++i) {
        for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
            Node* const node = orders[stripe][i];
            // Some may have room only once they have a parent themselves.
            if (!place_with_room(*node, stripe, changes)) later.emplace_back(node, stripe);
        }
    }
    for (const auto& [node, stripe] : later) place(*node, stripe, changes);
    take_turns(joined);
    for (Assignment& change : changes) change.parent = parent(change.member, change.stripe);
    if (source) {
        const std::vector<Assignment> adopted = adopt_orphans();
        changes.insert(changes.end(), adopted.begin(), adopted.end());
    }
    return changes;
}

std::vector<Assignment> Forest::join_and_replan(std::span<const Member> members,
                                                const ForestOptions& options) {
    std::map<std::uint64_t, Member> before;
    for (const auto& [id, node] : nodes_) before.emplace(node.order, node.member);
    *this = Forest(options);
    std::vector<Member> sources;
    std::vector<Member> readers;
    const auto sort = [&](const Member& member) {
        (member.complete ? sources : readers).push_back(member);
    };
    for (const auto& [order, member] : before) sort(member);
    std::for_each(members.begin(), members.end(), sort);
    join(sources);
    return join(readers);
}

std::vector<std::vector<MemberId>> Forest::release(Node& node) {
    std::vector<std::vector<MemberId>> readers = node.children;
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        for (const MemberId reader : readers[stripe]) detach(this->node(reader), stripe);
    }
    return readers;
}

std::vector<Assignment> Forest::leave(MemberId id) {
    std::vector<Assignment> changes;
    if (!contains(id)) return changes;
    Node& leaver = node(id);
    const auto readers = release(leaver);
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) detach(leaver, stripe);
    withdraw(leaver);
    Rack& rack = *leaver.rack;
    if (leaver.member.complete) --rack.complete;
    if (!leaver.member.complete) --reading_;
    if (Host* const host = leaver.host; host != nullptr) {
        host->members.erase(id);
        if (leaver.member.complete) --host->complete;
        if (host->members.empty()) hosts_.erase(leaver.member.host);
    }
    if (--rack.members == 0) racks_.erase(leaver.member.rack);
    nodes_.erase(id);
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        for (const MemberId reader : readers[stripe]) place(node(reader), stripe, changes);
    }
    return changes;
}

void Forest::finish(MemberId id) {
    Node& done = node(id);
    if (done.member.complete) return;
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) detach(done, stripe);
    withdraw(done);
    done.member.complete = true;
    done.owns.assign(stripes(), true);
    if (done.host != nullptr) ++done.host->complete;
    --reading_;
    ++done.rack->complete;
    offer(done);
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        set_place(done, stripe, 0, stripe);
    }
}

void Forest::relay(MemberId id) {
    Node& relay = node(id);
    if (relay.member.relays || relay.demoted) return;
    withdraw(relay);
    relay.member.relays = true;
    relay.slots = slots_of(relay.member);
    offer(relay);
}

void Forest::suspend(MemberId id) {
    Node& suspended = node(id);
    withdraw(suspended);
    suspended.member.relays = false;
    suspended.slots = 0;
}

std::vector<Assignment> Forest::demote(MemberId id) {
    std::vector<Assignment> changes;
    Node& slow = node(id);
    const auto readers = release(slow);
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) detach(slow, stripe);
    withdraw(slow);
    slow.member.relays = false;
    slow.demoted = true;
    slow.slots = 0;
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        for (const MemberId reader : readers[stripe]) place(node(reader), stripe, changes);
    }
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) place(slow, stripe, changes);
    return changes;
}

std::vector<Assignment> Forest::part(MemberId id, MemberId parent) {
    std::vector<Assignment> changes;
    Node& reader = node(id);
    reader.shunned.insert(parent);
    for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
        if (reader.parents[stripe] == parent) place(reader, stripe, changes);
    }
    return changes;
}

std::vector<Assignment> Forest::relieve() {
    std::vector<Assignment> changes;
    std::vector<MemberId> overloaded;
    for (auto at = loads_.rbegin(); at != loads_.rend() && std::get<0>(*at) >= 1; ++at) {
        const MemberId id = std::get<3>(*at);
        if (node(id).used > node(id).slots || node(id).host_used > stripes()) {
            overloaded.push_back(id);
        }
    }
    for (const MemberId id : overloaded) {
        const Node& holder = node(id);
        for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
            for (const MemberId reader : std::vector(holder.children[stripe])) {
                const bool local = is_local(holder, node(reader));
                if (local ? holder.host_used <= stripes() : holder.used <= holder.slots) continue;
                const MemberId parent = find_parent(node(reader), stripe);
                if (parent == kNobody) continue;
                detach(node(reader), stripe);
                attach(node(reader), stripe, parent);
                changes.push_back({reader, stripe, parent});
            }
        }
    }
    return changes;
}

std::vector<Assignment> Forest::adopt_orphans() {
    std::vector<Assignment> changes;
    for (const auto& [id, stripe] : std::vector(orphans_.begin(), orphans_.end())) {
        place(node(id), stripe, changes);
    }
    std::erase_if(changes, [](const Assignment& change) { return change.parent == kNobody; });
    return changes;
}

}  // namespace weightcast::plan
