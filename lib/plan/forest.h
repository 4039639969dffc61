// Who reads which stripe of a version from whom, kept up to date while peers join, finish, leave
// and turn out slow. A stripe is every k-th chunk: chunk % k. Each stripe has a tree of its own,
// and a member is interior in few of them (in one, if all ports are equal) and a leaf in the
// others, so that all ports work both ways all the time at a depth of about log_k n (Castro et al.,
// "SplitStream", SOSP 2003). A change touches only those who must read from someone else.
//
// Members of one host, and then of one rack, read from each other where they can, so that each byte
// enters a host and a rack about once. Where the ranks of a host have ports of their own (rails),
// they share the import: with G of them, each owns k/G stripes, which it reads from other hosts,
// from the owner there (so that a rail talks to the same rail), and hands on to its neighbours. A
// host is interior in one stripe of each of its owners.
//
// Capacity is counted in slots: a reader fills one slot a stripe at its full rate, and k of them
// are what a whole host can read: its ports together, k/G slots each. Pure, deterministic,
// thread-bound.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace weightcast::plan {

using MemberId = std::uint64_t;
inline constexpr MemberId kNobody = 0;
inline constexpr std::uint32_t kStripesMax = 64;

struct ForestOptions {
    std::uint32_t stripes = 2;         // k, 1 to kStripesMax; 1: a chain
    std::uint32_t ranks_per_host = 1;  // G, divides k
    double port_rate = 0;              // bytes/s of a reader's port; 0: unknown, as any port
    double rack_rate = 0;              // bytes/s of a rack's uplink, each way; 0: one reader's rate
};

struct Member {
    MemberId id = kNobody;
    std::string host;
    std::string rack;       // empty: not known, all such are in one
    double rate = 0;        // bytes/s that its port or its cap lets it send; 0: as any port
    bool complete = false;  // has everything and reads nothing
    bool relays = true;     // others may read from it
};

// For readers with such a port: they read no faster than the fastest source sends, and each rank of
// a host owns as many stripes as there are sources, within the limits. Rates in bytes/s, 0:
// unknown.
ForestOptions options_for(double port_rate, std::span<const Member> sources,
                          std::uint32_t ranks_per_host, std::uint32_t stripes_min,
                          std::uint32_t stripes_max);

// Reads `stripe` from `parent` from now on; kNobody: there is nobody to read from.
struct Assignment {
    MemberId member = kNobody;
    std::uint32_t stripe = 0;
    MemberId parent = kNobody;
    bool operator==(const Assignment&) const = default;
};

// The same for so many readers, and hosts with so many of them, at most kRanksPerHostMax: each of
// those has links to all. Large fleets of single ranks get three stripes at least, if they may have
// so many: a member that dies or is slow then is interior in a third and not in half of what is
// read, and the depth in time, k log_k n, is a little less.
inline constexpr std::uint32_t kRanksPerHostMax = 16;
ForestOptions with_readers(const ForestOptions& options, std::size_t readers,
                           std::uint32_t ranks_per_host, std::uint32_t stripes_max);

class Forest {
  public:
    explicit Forest(const ForestOptions& options);
    Forest(Forest&&) = default;
    Forest& operator=(Forest&&) = default;

    std::uint32_t stripes() const { return options_.stripes; }
    const ForestOptions& options() const { return options_; }
    bool contains(MemberId id) const { return nodes_.contains(id); }
    std::size_t size() const { return nodes_.size(); }
    // Members that do not have everything.
    std::size_t readers_in_all() const { return reading_; }
    // REQUIRES of the following: contains(id)
    MemberId parent(MemberId id, std::uint32_t stripe) const;
    bool complete(MemberId id) const { return nodes_.at(id).member.complete; }
    // Readers of the member, of all stripes together.
    std::uint32_t readers(MemberId id) const { return node(id).used + node(id).host_used; }
    // As which of its parent's readers of the stripe it is served, from 1; 0: in no order, as
    // readers on its own host, or it has no parent.
    std::uint32_t turn(MemberId id, std::uint32_t stripe) const;
    // Edges from a holder; 0: it has everything.
    std::uint32_t depth(MemberId id, std::uint32_t stripe) const;

    // True if `reader`, and nobody else, reads from the member.
    bool only_reader(MemberId id, MemberId reader) const;

    // Readers on the host with the most of them, once these have joined; at least 1.
    std::uint32_t ranks_per_host(std::span<const Member> joining) const;

    // What follows returns who must read from someone else now.

    // Those who join at once form trees among each other. Members known already are left alone.
    std::vector<Assignment> join(std::span<const Member> members);
    // The same, and plans the others anew as well: while a fleet starts, when nobody has much yet.
    std::vector<Assignment> join_and_replan(std::span<const Member> members,
                                            const ForestOptions& options);
    std::vector<Assignment> leave(MemberId id);
    // Now it has everything: it gives up its parents.
    void finish(MemberId id);
    // Others may read from it from now on, unless it was demoted.
    void relay(MemberId id);
    // Nobody is sent to it until relay(); those that read from it go on.
    void suspend(MemberId id);
    // What reads from it is moved away, and nobody is sent to it any more; it reads on as a leaf.
    std::vector<Assignment> demote(MemberId id);
    // `id` cannot read from `parent`, which may be well for others.
    std::vector<Assignment> part(MemberId id, MemberId parent);
    // Moves readers away from members that have more than their room, now that others may have
    // some.
    std::vector<Assignment> relieve();
    // Puts those whose parents are gone with somebody, now that there may be somebody.
    std::vector<Assignment> adopt_orphans();

    // What is wrong with this forest; empty: nothing. For tests.
    std::string check() const;

  private:
    struct Node;
    // Order in which members with room are offered to a reader of a stripe.
    struct Offer {
        bool spare = false;  // it is meant to be interior in another stripe
        std::uint32_t depth = 0;
        std::uint32_t due = 0;  // about when one more reader gets a chunk: forest_turns.cpp
        std::uint32_t used = 0;
        std::uint64_t order = 0;       // unique
        const Node* holder = nullptr;  // does not count in the order
        auto operator<=>(const Offer&) const = default;
    };
    // Order in which members without room are asked for more: readers by slots, sources last; of
    // equals those that joined last, who feed the fewest.
    using Load = std::tuple<double, bool, std::uint64_t, MemberId>;
    struct Rack {
        std::uint32_t ordinal = 0;
        std::uint32_t members = 0;
        std::uint32_t complete = 0;           // of the members
        std::uint32_t hosts = 0;              // that ever joined
        std::uint32_t preferred = 0;          // class of stripes that other racks read from here
        std::uint32_t imports = 0;            // readers here of holders in other racks
        std::vector<std::uint32_t> exports;   // readers in other racks, by stripe
        std::uint32_t exported = 0;           // of all stripes
        std::vector<std::set<Offer>> offers;  // of members with room, by stripe
    };
    struct Host {
        std::uint32_t ordinal = 0;  // in its rack
        std::uint32_t ranks = 0;    // readers that ever joined
        std::uint32_t complete = 0;
        std::vector<MemberId> importers;  // by stripe: the last that read it from elsewhere
        std::set<MemberId> members;
    };
    struct Node {
        Member member;
        Rack* rack = nullptr;
        Host* host = nullptr;         // none: not known
        std::uint64_t batch = 0;      // of its join; later ones have less
        std::uint64_t order = 0;      // unique
        std::vector<bool> owns;       // by stripe: it may have readers on other hosts
        std::uint32_t preferred = 0;  // class of those of its stripes in which it is interior
        std::uint32_t slots = 0;      // for readers on other hosts
        std::uint32_t used = 0;
        std::uint32_t host_used = 0;  // by readers on its own host, which has as many
        bool offered = false;
        bool demoted = false;
        std::vector<MemberId> parents;                // by stripe
        std::vector<std::uint32_t> depths;            // by stripe
        std::vector<std::uint32_t> turns;             // by stripe: forest_turns.cpp
        std::vector<std::uint32_t> feeds;             // by stripe: of `used`
        std::vector<std::vector<MemberId>> children;  // by stripe
        std::set<MemberId> shunned;                   // that it cannot read from
    };
    Node& node(MemberId id) { return nodes_.at(id); }
    const Node& node(MemberId id) const { return nodes_.at(id); }
    // Stripes that each rank of a host owns; stripes of a class are as many apart.
    std::uint32_t share() const { return options_.stripes / options_.ranks_per_host; }
    bool is_interior(const Node& node, std::uint32_t stripe) const {
        return node.owns[stripe] && stripe % share() == node.preferred;
    }
    std::uint32_t slots_at(double rate) const;
    std::uint32_t slots_of(const Member& member) const;
    Offer offer_of(const Node& node, std::uint32_t stripe) const;
    Load load_of(const Node& node) const;
    static bool is_local(const Node& holder, const Node& reader);
    bool offers_in(const Node& node, std::uint32_t stripe) const {
        return node.offered && node.member.relays && node.used < node.slots && node.owns[stripe];
    }
    void offer(Node& node);
    void withdraw(Node& node);
    bool below(MemberId id, MemberId ancestor, std::uint32_t stripe) const;
    bool suits(const Node& reader, const Node& holder, std::uint32_t stripe) const;
    bool serves_on_host(const Node& holder, const Node& reader, std::uint32_t stripe) const;
    MemberId find_on_host(const Node& reader, std::uint32_t stripe) const;
    const Offer* best_offer(const Node& reader, const Rack& rack, std::uint32_t stripe) const;
    MemberId find_elsewhere(const Node& reader, std::uint32_t stripe) const;
    MemberId find_overcommitted(const Node& reader, std::uint32_t stripe) const;
    MemberId find_parent(const Node& reader, std::uint32_t stripe) const;
    void deal_stripes(std::span<Node* const> joined);
    template <typename Change>
    void use(Node& holder, const Node& reader, const Change& change);
    void attach(Node& reader, std::uint32_t stripe, MemberId parent);
    void detach(Node& reader, std::uint32_t stripe);
    // False: nobody has room, and nothing was done.
    bool place_with_room(Node& reader, std::uint32_t stripe, std::vector<Assignment>& changes);
    void place(Node& reader, std::uint32_t stripe, std::vector<Assignment>& changes);
    void set_place(Node& top, std::uint32_t stripe, std::uint32_t depth, std::uint32_t turn);
    // Takes all readers away from the node: who they are, by stripe.
    std::vector<std::vector<MemberId>> release(Node& node);
    std::vector<Node*> add(std::span<const Member> members);
    std::uint32_t free_turn(const Node& holder, const Node& reader, std::uint32_t stripe) const;
    bool may_trade(const Node& a, const Node& b, std::uint32_t stripe) const;
    void trade(Node& a, Node& b, std::uint32_t stripe);
    std::uint32_t meetings(const Node& reader, std::uint32_t stripe, std::uint32_t turn) const;
    void trade_turns(std::span<Node* const> joined, std::uint32_t stripe);
    void take_turns(std::span<Node* const> joined);
    std::vector<Node*> in_order(std::vector<Node*> joined, std::uint32_t stripe) const;

    ForestOptions options_;
    std::uint32_t rack_slots_ = 1;
    std::unordered_map<MemberId, Node> nodes_;
    std::map<std::string, Rack> racks_;
    std::map<std::string, Host> hosts_;
    std::set<std::pair<MemberId, std::uint32_t>> orphans_;
    std::set<Load> loads_;  // of all relays
    std::size_t reading_ = 0;
    std::uint64_t batch_ = 0;
    std::uint64_t next_order_ = 0;
};

}  // namespace weightcast::plan
