// Plans in rounds, for a fleet of equals: rank 0 has S bytes in k blocks, n - 1 others want them,
// and all have the same full duplex port of rate B. In a round a rank sends at most one block and
// receives at most one, and sends on what it received in a round before. A round takes
// S/(kB) + alpha. Each shape is a number of rounds, for the cost model, and a schedule. Pure,
// deterministic.
//
// clang-format off
// | shape    | rounds                         | source
// | chain    | k + n - 2                      |
// | binomial | k - 1 + ceil(log2 n)           | Ganesan, Seshadri: On cooperative content
// |          | no plan needs fewer            | distribution and the price of barter, ICDCS 2005
// | two_tree | <= k + 1 + 2 floor(log2(n-1))  | Sanders, Speck, Traff: Two-tree algorithms for
// |          |                                | full bandwidth broadcast, reduction and scan, 2009
// | forest   | <= k + (s - 1) + s depth       | Castro et al.: SplitStream, SOSP 2003; plan::Forest
// |          |                                | as long as nobody has more than s readers in it
// clang-format on
#pragma once

#include <cstdint>
#include <vector>

namespace weightcast::plan {

enum class Shape : std::uint8_t { chain, binomial, two_tree, forest };
const char* to_string(Shape shape);

struct Transfer {
    std::uint32_t round = 0;
    std::uint32_t from = 0;  // ranks
    std::uint32_t to = 0;
    std::uint32_t block = 0;
    bool operator==(const Transfer&) const = default;
};

// A tree a stripe: whom each rank reads the stripe from; the entry of rank 0 means nothing.
// Block b is in stripe b % s, s being the number of stripes.
using Trees = std::vector<std::vector<std::uint32_t>>;
// REQUIRES of all: ranks >= 1
Trees chain_tree(std::uint32_t ranks);
// Two binary trees; who has readers in one has none in the other.
Trees two_trees(std::uint32_t ranks);
// REQUIRES: 1 <= stripes <= kStripesMax
Trees forest_trees(std::uint32_t ranks, std::uint32_t stripes);

// Blocks down trees, each edge in every p-th round, where p is the most readers or parents that a
// rank has: an edge is a colour, of which no rank has two the same for sending or for receiving.
// So many colours are enough (Konig 1916: a bipartite graph of degree p is coloured by p).
class TreePipeline {
  public:
    // REQUIRES: trees as those above make them
    explicit TreePipeline(const Trees& trees);

    // max over stripes of: a + p (k_s - 1) + 1, where a is the round in which the last rank gets
    // the stripe's first block, and k_s of the k blocks are in the stripe.
    std::uint64_t rounds(std::uint64_t blocks) const;
    // In the order of rounds.
    std::vector<Transfer> schedule(std::uint32_t blocks) const;
    std::uint32_t period() const { return period_; }
    std::uint32_t stripes() const { return static_cast<std::uint32_t>(last_.size()); }

  private:
    struct Edge {
        std::uint32_t stripe = 0;
        std::uint32_t from = 0;
        std::uint32_t to = 0;
        std::uint32_t first = 0;  // round
    };
    std::vector<Edge> edges_;
    std::vector<std::uint32_t> last_;  // by stripe: a
    std::uint32_t period_ = 1;
};

// A hypercube of 2^m places, m = floor(log2 n), with the source alone in place 0 and one or two
// ranks in the others. In round t, places that differ in bit t % m give each other the newest block
// that they have, the source its next one; of two ranks in a place one sends to the other place and
// one receives from it, and hands on what the other lacks. One more round makes pairs equal.
std::uint64_t binomial_rounds(std::uint32_t ranks, std::uint64_t blocks);
std::vector<Transfer> binomial_schedule(std::uint32_t ranks, std::uint32_t blocks);

}  // namespace weightcast::plan
