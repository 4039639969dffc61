// The colours of the edges of trees, and the rounds that follow from them.
#include <algorithm>
#include <array>
#include <numeric>

#include "base/assert.h"
#include "plan/shapes.h"

namespace weightcast::plan {
namespace {

constexpr std::uint32_t kNoEdge = UINT32_MAX;

// Colours edges from senders to receivers, so that no sender and no receiver has two of a colour.
class Colouring {
  public:
    Colouring(std::size_t edges, std::uint32_t ranks, std::uint32_t colours)
        : colours_(colours),
          ends_(edges),
          colour_of_(edges, kNoEdge),
          at_{Table(std::size_t{ranks} * colours, kNoEdge),
              Table(std::size_t{ranks} * colours, kNoEdge)} {}

    // A colour that both have free is taken if there is one, the first from `wanted` on.
    void add(std::uint32_t edge, std::uint32_t from, std::uint32_t to, std::uint32_t wanted) {
        ends_[edge] = {from, to};
        for (std::uint32_t i = 0; i < colours_; ++i) {
            const std::uint32_t colour = (wanted + i) % colours_;
            if (at(0, from, colour) == kNoEdge && at(1, to, colour) == kNoEdge) {
                return set(edge, colour);
            }
        }
        const std::uint32_t mine = free(0, from);
        swap_along(to, mine, free(1, to));
        set(edge, mine);
    }
    std::uint32_t colour(std::uint32_t edge) const { return colour_of_[edge]; }

  private:
    using Table = std::vector<std::uint32_t>;

    std::uint32_t& at(std::size_t side, std::uint32_t rank, std::uint32_t colour) {
        return at_[side][std::size_t{rank} * colours_ + colour];
    }
    std::uint32_t free(std::size_t side, std::uint32_t rank) {
        std::uint32_t colour = 0;
        while (at(side, rank, colour) != kNoEdge) ++colour;
        WEIGHTCAST_ASSERT(colour < colours_);
        return colour;
    }
    void set(std::uint32_t edge, std::uint32_t colour) {
        colour_of_[edge] = colour;
        for (std::size_t side = 0; side < 2; ++side) at(side, ends_[edge][side], colour) = edge;
    }
    // Exchanges two colours on the path that begins at a receiver with an edge of `first`. It never
    // gets to the sender that has `first` free: it comes to senders by edges of that colour.
    void swap_along(std::uint32_t receiver, std::uint32_t first, std::uint32_t second) {
        Table path;
        std::size_t side = 1;
        std::uint32_t rank = receiver;
        for (std::uint32_t colour = first; at(side, rank, colour) != kNoEdge;
             colour = colour == first ? second : first) {
            path.push_back(at(side, rank, colour));
            side = 1 - side;
            rank = ends_[path.back()][side];
        }
        for (const std::uint32_t edge : path) {
            for (std::size_t end = 0; end < 2; ++end) {
                at(end, ends_[edge][end], colour_of_[edge]) = kNoEdge;
            }
        }
        for (const std::uint32_t edge : path) set(edge, first + second - colour_of_[edge]);
    }

    std::uint32_t colours_;
    std::vector<std::array<std::uint32_t, 2>> ends_;  // sender and receiver, by edge
    Table colour_of_;                                 // by edge
    std::array<Table, 2> at_;                         // edge by rank and colour
};

// Ranks but the root, parents before their readers.
std::vector<std::uint32_t> downwards(const std::vector<std::uint32_t>& parents) {
    const auto ranks = static_cast<std::uint32_t>(parents.size());
    std::vector<std::uint32_t> begins(ranks + 1);
    for (std::uint32_t i = 1; i < ranks; ++i) ++begins[parents[i] + 1];
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    std::vector<std::uint32_t> readers(ranks - 1);
    std::vector<std::uint32_t> filled(begins.begin(), begins.end() - 1);
    for (std::uint32_t i = 1; i < ranks; ++i) readers[filled[parents[i]]++] = i;
    std::vector<std::uint32_t> order{0};
    for (std::size_t i = 0; i < order.size(); ++i) {
        const std::uint32_t rank = order[i];
        order.insert(order.end(), readers.begin() + begins[rank],
                     readers.begin() + begins[rank + 1]);
    }
    order.erase(order.begin());
    WEIGHTCAST_ASSERT(order.size() == readers.size());
    return order;
}

std::uint32_t most_readers(const Trees& trees) {
    std::vector<std::uint32_t> readers(trees[0].size());
    for (const auto& parents : trees) {
        for (std::size_t i = 1; i < parents.size(); ++i) ++readers[parents[i]];
    }
    return *std::max_element(readers.begin(), readers.end());
}

// The first round from `ready` on of which the edge has the colour.
std::uint32_t round_of(std::uint32_t ready, std::uint32_t colour, std::uint32_t period) {
    return ready + (colour + period - ready % period) % period;
}

}  // namespace

TreePipeline::TreePipeline(const Trees& trees) : last_(trees.size()) {
    WEIGHTCAST_ASSERT(!trees.empty() && !trees[0].empty());
    const auto ranks = static_cast<std::uint32_t>(trees[0].size());
    period_ = std::max(stripes(), most_readers(trees));
    std::vector<std::vector<std::uint32_t>> orders;
    for (const auto& parents : trees) orders.push_back(downwards(parents));
    // All stripes go down together; what is near the source gets the colours that come soonest.
    for (std::uint32_t i = 0; i + 1 < ranks; ++i) {
        for (std::uint32_t stripe = 0; stripe < stripes(); ++stripe) {
            const std::uint32_t to = orders[stripe][i];
            edges_.push_back({stripe, trees[stripe][to], to, 0});
        }
    }
    Colouring colouring(edges_.size(), ranks, period_);
    std::vector<std::vector<std::uint32_t>> ready(trees.size(), std::vector<std::uint32_t>(ranks));
    const auto arrive = [&](std::uint32_t edge) {
        Edge& e = edges_[edge];
        e.first = round_of(ready[e.stripe][e.from], colouring.colour(edge), period_);
        ready[e.stripe][e.to] = e.first + 1;
    };
    for (std::uint32_t i = 0; i < edges_.size(); ++i) {
        const Edge& e = edges_[i];
        colouring.add(i, e.from, e.to, ready[e.stripe][e.from] % period_);
        arrive(i);
    }
    // Later edges may have changed the colours of earlier ones.
    for (std::uint32_t i = 0; i < edges_.size(); ++i) {
        arrive(i);
        last_[edges_[i].stripe] = std::max(last_[edges_[i].stripe], edges_[i].first);
    }
}

std::uint64_t TreePipeline::rounds(std::uint64_t blocks) const {
    std::uint64_t rounds = 0;
    if (edges_.empty()) return rounds;
    for (std::uint32_t stripe = 0; stripe < stripes() && stripe < blocks; ++stripe) {
        const std::uint64_t mine = (blocks - stripe - 1) / stripes() + 1;
        rounds = std::max(rounds, last_[stripe] + period_ * (mine - 1) + 1);
    }
    return rounds;
}

std::vector<Transfer> TreePipeline::schedule(std::uint32_t blocks) const {
    std::vector<Transfer> transfers;
    for (const Edge& edge : edges_) {
        std::uint32_t round = edge.first;
        for (std::uint32_t block = edge.stripe; block < blocks; block += stripes()) {
            transfers.push_back({round, edge.from, edge.to, block});
            round += period_;
        }
    }
    std::stable_sort(transfers.begin(), transfers.end(),
                     [](const Transfer& a, const Transfer& b) { return a.round < b.round; });
    return transfers;
}

}  // namespace weightcast::plan
