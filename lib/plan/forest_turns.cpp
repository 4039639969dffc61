// In which turn the stripes of a reader come. A holder sends a new chunk to one reader of its
// stripe after the other, so each edge has its turn in a period of k chunks, as long as all go on
// at one rate. Two stripes of a reader that have the same turn meet at its port, where one waits
// for the other, and whoever reads from it waits, too. An edge colouring without any such meeting
// exists (shapes.h, TreePipeline); here leaves of a stripe trade parents where that leaves fewer.
#include <algorithm>
#include <utility>

#include "plan/forest.h"

namespace weightcast::plan {
namespace {

constexpr int kPasses = 3;  // what one trade makes possible, the next pass finds
// Of a stripe that others read here: they all get it late.
constexpr std::uint32_t kCostRelayed = 8;
// With more of them each is a small part, and looking at all pairs takes long.
constexpr std::uint32_t kStripesMost = 4;
constexpr std::size_t kTriedMax = 1000;

}  // namespace

// The least that none of the holder's other readers has.
std::uint32_t Forest::free_turn(const Node& holder, const Node& reader,
                                std::uint32_t stripe) const {
    if (is_local(holder, reader)) return 0;
    std::vector<bool> taken(holder.feeds[stripe] + 1);
    for (const MemberId id : holder.children[stripe]) {
        const Node& child = node(id);
        if (&child == &reader || is_local(holder, child)) continue;
        const std::uint32_t turn = child.turns[stripe] - holder.turns[stripe];
        if (turn < taken.size()) taken[turn] = true;
    }
    std::uint32_t turn = 1;
    while (turn < taken.size() && taken[turn]) ++turn;
    return turn;
}

bool Forest::may_trade(const Node& a, const Node& b, std::uint32_t stripe) const {
    const Node& from_a = node(a.parents[stripe]);
    const Node& from_b = node(b.parents[stripe]);
    return a.rack == b.rack && from_a.rack == from_b.rack && !is_local(from_a, b) &&
           !is_local(from_b, a) && suits(a, from_b, stripe) && suits(b, from_a, stripe);
}

void Forest::trade(Node& a, Node& b, std::uint32_t stripe) {
    withdraw(a);
    withdraw(b);
    auto& of_a = node(a.parents[stripe]).children[stripe];
    auto& of_b = node(b.parents[stripe]).children[stripe];
    std::iter_swap(std::find(of_a.begin(), of_a.end(), a.member.id),
                   std::find(of_b.begin(), of_b.end(), b.member.id));
    std::swap(a.parents[stripe], b.parents[stripe]);
    std::swap(a.depths[stripe], b.depths[stripe]);
    std::swap(a.turns[stripe], b.turns[stripe]);
    offer(a);
    offer(b);
}

// What the meetings of a reader's stripes cost, with `turn` as that of one of them.
std::uint32_t Forest::meetings(const Node& reader, std::uint32_t stripe, std::uint32_t turn) const {
    const auto turn_of = [&](std::uint32_t s) {
        return (s == stripe ? turn : reader.turns[s]) % stripes();
    };
    std::uint32_t cost = 0;
    for (std::uint32_t a = 0; a < stripes(); ++a) {
        for (std::uint32_t b = a + 1; b < stripes(); ++b) {
            if (turn_of(a) != turn_of(b)) continue;
            const bool relayed = !reader.children[a].empty() || !reader.children[b].empty();
            cost += relayed ? kCostRelayed : 1;
        }
    }
    return cost;
}

// One pass over those of `joined` that are leaves in the stripe.
void Forest::trade_turns(std::span<Node* const> joined, std::uint32_t stripe) {
    std::vector<Node*> leaves;
    for (Node* const reader : joined) {
        if (reader->member.complete || !reader->children[stripe].empty()) continue;
        const MemberId parent = reader->parents[stripe];
        if (parent != kNobody && !is_local(node(parent), *reader)) leaves.push_back(reader);
    }
    std::size_t begin = 0;  // behind the last found: those before have traded already
    for (Node* const reader : leaves) {
        const std::uint32_t mine = reader->turns[stripe];
        const std::uint32_t cost = meetings(*reader, stripe, mine);
        for (std::size_t i = 0; cost > 0 && i < std::min(leaves.size(), kTriedMax); ++i) {
            Node* const other = leaves[(begin + i) % leaves.size()];
            const std::uint32_t theirs = other->turns[stripe];
            const std::uint32_t now = cost + meetings(*other, stripe, theirs);
            const std::uint32_t then =
                meetings(*reader, stripe, theirs) + meetings(*other, stripe, mine);
            if (then >= now || !may_trade(*reader, *other, stripe)) continue;
            trade(*reader, *other, stripe);
            begin += i + 1;
            break;
        }
    }
}

// Among readers with one port each, who just joined: they lose nothing by another parent.
void Forest::take_turns(std::span<Node* const> joined) {
    if (stripes() > kStripesMost || options_.ranks_per_host != 1) return;
    for (int pass = 0; pass < kPasses; ++pass) {
        for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) trade_turns(joined, stripe);
    }
}

}  // namespace weightcast::plan
