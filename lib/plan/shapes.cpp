// The trees of the shapes, and the binomial pipeline.
#include "plan/shapes.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/assert.h"
#include "plan/forest.h"

namespace weightcast::plan {
namespace {

std::uint32_t floor_log2(std::uint32_t number) {
    return static_cast<std::uint32_t>(std::bit_width(number)) - 1;
}

// The parents of positions 1 to `count` of a binary tree whose in-order numbers they are; the
// parent of the root is 0. Odd positions are leaves, and the depth is floor(log2(count)).
std::vector<std::uint32_t> in_order_tree(std::uint32_t count) {
    std::vector<std::uint32_t> parents(count + 1);
    struct Part {
        std::uint32_t before;  // positions before it
        std::uint32_t count;
        std::uint32_t parent;
    };
    std::vector<Part> todo{{0, count, 0}};
    while (!todo.empty()) {
        const Part part = todo.back();
        todo.pop_back();
        if (part.count == 0) continue;
        const std::uint32_t left = std::bit_floor(part.count) - 1;
        const std::uint32_t root = part.before + left + 1;
        parents[root] = part.parent;
        todo.push_back({part.before, left, root});
        todo.push_back({root, part.count - left - 1, root});
    }
    return parents;
}

constexpr std::int64_t kNoBlock = -1;

// A set of blocks in which the newest is found at once.
class Blocks {
  public:
    explicit Blocks(std::uint32_t blocks) : has_(blocks) {}
    void add(std::uint32_t block) {
        has_[block] = true;
        newest_ = std::max<std::int64_t>(newest_, block);
    }
    bool has(std::int64_t block) const { return has_[static_cast<std::size_t>(block)]; }
    std::int64_t newest() const { return newest_; }

  private:
    std::vector<bool> has_;
    std::int64_t newest_ = kNoBlock;
};

// A place of the hypercube. What each of two ranks lacks of what the other has is one block at
// most: the one that lacks nothing new is always there to send.
struct Place {
    std::vector<std::uint32_t> ranks;
    std::array<std::int64_t, 2> lacks{kNoBlock, kNoBlock};
    Blocks blocks;
};

class Hypercube {
  public:
    Hypercube(std::uint32_t ranks, std::uint32_t blocks);
    std::vector<Transfer> run();

  private:
    void round(std::uint32_t round, std::uint32_t bit);
    std::int64_t offer(std::uint32_t place, std::uint32_t partner, std::uint32_t round) const;
    void send(std::uint32_t round, std::uint32_t from, std::uint32_t to, std::int64_t block);
    void hand_on(std::uint32_t round, Place& place, std::size_t to);

    std::uint32_t ranks_;
    std::uint32_t blocks_;
    std::uint32_t dimensions_;
    std::vector<Place> places_;
    std::vector<Transfer> transfers_;
};

Hypercube::Hypercube(std::uint32_t ranks, std::uint32_t blocks)
    : ranks_(ranks), blocks_(blocks), dimensions_(floor_log2(ranks)) {
    const std::uint32_t places = 1U << dimensions_;
    for (std::uint32_t i = 0; i < places; ++i) {
        places_.push_back({{i}, {kNoBlock, kNoBlock}, Blocks(blocks)});
        if (i > 0 && places + i - 1 < ranks) places_[i].ranks.push_back(places + i - 1);
    }
    for (std::uint32_t block = 0; block < blocks; ++block) places_[0].blocks.add(block);
}

std::int64_t Hypercube::offer(std::uint32_t place, std::uint32_t partner,
                              std::uint32_t round) const {
    if (partner == 0) return kNoBlock;
    const std::int64_t block =
        place == 0 ? std::min(round, blocks_ - 1) : places_[place].blocks.newest();
    return block == kNoBlock || places_[partner].blocks.has(block) ? kNoBlock : block;
}

void Hypercube::send(std::uint32_t round, std::uint32_t from, std::uint32_t to,
                     std::int64_t block) {
    transfers_.push_back({round, from, to, static_cast<std::uint32_t>(block)});
}

void Hypercube::hand_on(std::uint32_t round, Place& place, std::size_t to) {
    if (place.lacks[to] == kNoBlock) return;
    send(round, place.ranks[1 - to], place.ranks[to], place.lacks[to]);
    place.lacks[to] = kNoBlock;
}

void Hypercube::round(std::uint32_t round, std::uint32_t bit) {
    const auto count = static_cast<std::uint32_t>(places_.size());
    std::vector<std::int64_t> offers(count);
    std::vector<std::size_t> senders(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        Place& place = places_[i];
        offers[i] = offer(i, i ^ (1U << bit), round);
        if (place.ranks.size() == 1) continue;
        // The sender must have it; if both have, let it be one that can be told something.
        if (offers[i] != kNoBlock && place.lacks[0] == offers[i]) {
            senders[i] = 1;
        } else if (offers[i] != kNoBlock && place.lacks[1] == offers[i]) {
            senders[i] = 0;
        } else {
            senders[i] = place.lacks[0] != kNoBlock ? 0 : 1;
        }
        hand_on(round, place, senders[i]);
    }
    for (std::uint32_t i = 0; i < count; ++i) {
        if (offers[i] == kNoBlock) continue;
        Place& to = places_[i ^ (1U << bit)];
        const std::size_t sender = senders[i ^ (1U << bit)];
        const std::size_t receiver = to.ranks.size() == 1 ? 0 : 1 - sender;
        send(round, places_[i].ranks[senders[i]], to.ranks[receiver], offers[i]);
        to.blocks.add(static_cast<std::uint32_t>(offers[i]));
        if (to.ranks.size() == 2) {
            WEIGHTCAST_ASSERT(to.lacks[sender] == kNoBlock);
            to.lacks[sender] = offers[i];
        }
    }
}

std::vector<Transfer> Hypercube::run() {
    if (ranks_ < 2 || blocks_ == 0) return {};
    const std::uint32_t rounds = blocks_ - 1 + dimensions_;
    for (std::uint32_t i = 0; i < rounds; ++i) round(i, i % dimensions_);
    for (Place& place : places_) {
        if (place.ranks.size() == 1) continue;
        hand_on(rounds, place, 0);
        hand_on(rounds, place, 1);
    }
    return std::move(transfers_);
}

}  // namespace

const char* to_string(Shape shape) {
    switch (shape) {
        case Shape::chain:
            return "chain";
        case Shape::binomial:
            return "binomial";
        case Shape::two_tree:
            return "two_tree";
        case Shape::forest:
            return "forest";
    }
    return "";
}

Trees chain_tree(std::uint32_t ranks) {
    Trees trees(1, std::vector<std::uint32_t>(ranks));
    for (std::uint32_t i = 1; i < ranks; ++i) trees[0][i] = i - 1;
    return trees;
}

// In the first tree rank i is at position i, in the second at i + 1, the last one at position 1.
Trees two_trees(std::uint32_t ranks) {
    const std::uint32_t receivers = ranks - 1;
    const std::vector<std::uint32_t> tree = in_order_tree(receivers);
    Trees trees(2, std::vector<std::uint32_t>(ranks));
    const auto shifted = [&](std::uint32_t position) {
        return position == 1 ? receivers : position - 1;
    };
    for (std::uint32_t i = 1; i < ranks; ++i) {
        trees[0][i] = tree[i];
        trees[1][shifted(i)] = tree[i] == 0 ? 0 : shifted(tree[i]);
    }
    return trees;
}

Trees forest_trees(std::uint32_t ranks, std::uint32_t stripes) {
    ForestOptions options;
    options.stripes = stripes;
    Forest forest(options);
    std::vector<Member> members(ranks);
    for (std::uint32_t i = 0; i < ranks; ++i) members[i].id = i + 1;
    members[0].complete = true;
    forest.join(members);
    Trees trees(stripes, std::vector<std::uint32_t>(ranks));
    for (std::uint32_t stripe = 0; stripe < stripes; ++stripe) {
        for (std::uint32_t i = 1; i < ranks; ++i) {
            trees[stripe][i] = static_cast<std::uint32_t>(forest.parent(i + 1, stripe)) - 1;
        }
    }
    return trees;
}

std::uint64_t binomial_rounds(std::uint32_t ranks, std::uint64_t blocks) {
    if (ranks < 2 || blocks == 0) return 0;
    return blocks - 1 + floor_log2(ranks) + (std::has_single_bit(ranks) ? 0 : 1);
}

std::vector<Transfer> binomial_schedule(std::uint32_t ranks, std::uint32_t blocks) {
    return Hypercube(ranks, blocks).run();
}

}  // namespace weightcast::plan
