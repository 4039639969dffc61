// Goal: each shape's schedule gives everybody everything, asks of a port no more than it can do,
// and takes as many rounds as its formula says. Method: schedules are executed.
#include "plan/shapes.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "plan/forest.h"
#include "tests/kit/catch.h"

namespace weightcast::plan {
namespace {

// What is wrong with the schedule; empty: nothing.
std::string execute(const std::vector<Transfer>& schedule, std::uint32_t ranks,
                    std::uint32_t blocks, std::uint64_t rounds) {
    constexpr std::uint32_t kNever = UINT32_MAX;
    // First round in which a rank can send a block.
    std::vector<std::vector<std::uint32_t>> ready(ranks,
                                                  std::vector<std::uint32_t>(blocks, kNever));
    ready[0].assign(blocks, 0);
    std::set<std::pair<std::uint32_t, std::uint32_t>> sent;
    std::set<std::pair<std::uint32_t, std::uint32_t>> received;
    std::uint32_t last = 0;
    for (const Transfer& t : schedule) {
        const auto wrong = [&](const char* what) {
            return fmt::format("{} of n={} k={}: round {}, block {} from {} to {}", what, ranks,
                               blocks, t.round, t.block, t.from, t.to);
        };
        if (t.round < last) return wrong("not in order");
        last = t.round;
        if (ready[t.from][t.block] > t.round) return wrong("sent without having it");
        if (ready[t.to][t.block] != kNever) return wrong("sent twice");
        if (!sent.emplace(t.round, t.from).second) return wrong("two sent in a round");
        if (!received.emplace(t.round, t.to).second) return wrong("two received in a round");
        ready[t.to][t.block] = t.round + 1;
    }
    std::uint32_t needed = 0;
    for (const auto& blocks_of : ready) {
        for (const std::uint32_t round : blocks_of) {
            if (round == kNever) return fmt::format("n={} k={}: incomplete", ranks, blocks);
            needed = std::max(needed, round);
        }
    }
    if (needed == rounds) return {};
    return fmt::format("n={} k={}: {} rounds, not {}", ranks, blocks, needed, rounds);
}

std::string execute(const TreePipeline& pipeline, std::uint32_t ranks, std::uint32_t blocks) {
    return execute(pipeline.schedule(blocks), ranks, blocks, pipeline.rounds(blocks));
}

std::uint32_t depth_of(const Trees& trees) {
    std::uint32_t depth = 0;
    for (const auto& parents : trees) {
        for (std::uint32_t rank = 1; rank < parents.size(); ++rank) {
            std::uint32_t edges = 0;
            for (std::uint32_t at = rank; at != 0; at = parents[at]) ++edges;
            depth = std::max(depth, edges);
        }
    }
    return depth;
}

// Stripes in which each rank has readers, and the most readers that one has in all.
std::pair<std::vector<std::uint32_t>, std::uint32_t> interior(const Trees& trees) {
    const std::size_t ranks = trees[0].size();
    std::vector<std::set<std::size_t>> stripes(ranks);
    std::vector<std::uint32_t> readers(ranks);
    for (std::size_t s = 0; s < trees.size(); ++s) {
        for (std::size_t i = 1; i < ranks; ++i) {
            stripes[trees[s][i]].insert(s);
            ++readers[trees[s][i]];
        }
    }
    std::vector<std::uint32_t> counts;
    for (const auto& set : stripes) counts.push_back(static_cast<std::uint32_t>(set.size()));
    return {counts, *std::max_element(readers.begin(), readers.end())};
}

std::uint32_t floor_log2(std::uint32_t number) {
    std::uint32_t log = 0;
    while (number >>= 1U) ++log;
    return log;
}

const std::vector<std::uint32_t> kBlocks{1, 2, 3, 4, 5, 7, 8, 16, 33};

}  // namespace

TEST_CASE("a chain takes k + n - 2 rounds") {
    for (std::uint32_t n = 2; n <= 20; ++n) {
        const TreePipeline pipeline(chain_tree(n));
        for (const std::uint32_t k : kBlocks) {
            CHECK(pipeline.rounds(k) == k + n - 2);
            CHECK(execute(pipeline, n, k).empty());
        }
    }
}

TEST_CASE("the binomial pipeline takes k - 1 + ceil(log2 n) rounds for any number of ranks") {
    for (std::uint32_t n = 2; n <= 70; ++n) {
        for (const std::uint32_t k : kBlocks) {
            const std::uint32_t log = floor_log2(n) + ((n & (n - 1)) == 0 ? 0 : 1);
            CHECK(binomial_rounds(n, k) == k - 1 + log);
            CHECK(execute(binomial_schedule(n, k), n, k, binomial_rounds(n, k)) == "");
        }
    }
    for (const std::uint32_t n : {511U, 512U, 513U, 1000U, 1023U}) {
        CHECK(execute(binomial_schedule(n, 64), n, 64, binomial_rounds(n, 64)) == "");
    }
}

TEST_CASE("two trees are disjoint inside and take k + 1 + 2 floor(log2(n - 1)) rounds at most") {
    for (std::uint32_t n = 2; n <= 70; ++n) {
        const Trees trees = two_trees(n);
        const auto [stripes, readers] = interior(trees);
        CHECK(std::all_of(stripes.begin() + 1, stripes.end(),
                          [](std::uint32_t count) { return count <= 1; }));
        CHECK(readers <= 2);
        const TreePipeline pipeline(trees);
        CHECK(pipeline.period() == 2);
        for (const std::uint32_t k : kBlocks) {
            CHECK(pipeline.rounds(k) <= k + 1 + 2 * floor_log2(n - 1));
            CHECK(execute(pipeline, n, k) == "");
        }
    }
}

TEST_CASE("a forest keeps all ports busy at a small depth") {
    for (const std::uint32_t stripes : {1U, 2U, 3U, 4U, 8U}) {
        for (const std::uint32_t n : {2U, 8U, 9U, 10U, 17U, 32U, 40U, 64U, 104U, 257U}) {
            const Trees trees = forest_trees(n, stripes);
            const TreePipeline pipeline(trees);
            CAPTURE(stripes, n, depth_of(trees));
            CHECK(pipeline.period() == stripes);
            for (const std::uint32_t k : kBlocks) {
                CHECK(pipeline.rounds(k) <= k - 1 + stripes * depth_of(trees));
                CHECK(execute(pipeline, n, k) == "");
            }
        }
    }
}

TEST_CASE("where a forest asks too much of a port, the rounds say so") {
    for (std::uint32_t n = 2; n <= 40; ++n) {
        for (const std::uint32_t stripes : {4U, 8U}) {
            const Trees trees = forest_trees(n, stripes);
            const TreePipeline pipeline(trees);
            CHECK(pipeline.period() == std::max(stripes, interior(trees).second));
            CHECK(execute(pipeline, n, 17) == "");
        }
    }
}

TEST_CASE("edges are coloured also where the first free colours do not meet") {
    // Trees drawn at random have ranks with many readers, and periods beyond the stripes.
    std::uint32_t state = 1;
    for (std::uint32_t n = 2; n <= 40; ++n) {
        for (const std::uint32_t stripes : {1U, 2U, 3U}) {
            Trees trees(stripes, std::vector<std::uint32_t>(n));
            for (auto& parents : trees) {
                std::vector<std::uint32_t> order(n);
                std::iota(order.begin(), order.end(), 0U);
                for (std::uint32_t i = 1; i < n; ++i) {
                    state = state * 1664525U + 1013904223U;
                    std::swap(order[i], order[1 + (state >> 16U) % (n - 1)]);
                }
                for (std::uint32_t i = 1; i < n; ++i) {
                    state = state * 1664525U + 1013904223U;
                    parents[order[i]] = order[(state >> 16U) % i];
                }
            }
            const TreePipeline pipeline(trees);
            CHECK(pipeline.period() == std::max(stripes, interior(trees).second));
            CHECK(execute(pipeline, n, 7) == "");
        }
    }
}

TEST_CASE("one rank alone needs no round") {
    CHECK(TreePipeline(chain_tree(1)).rounds(5) == 0);
    CHECK(TreePipeline(two_trees(1)).schedule(5).empty());
    CHECK(TreePipeline(forest_trees(1, 4)).rounds(5) == 0);
    CHECK(binomial_rounds(1, 5) == 0);
    CHECK(binomial_schedule(1, 5).empty());
    CHECK(binomial_rounds(8, 0) == 0);
}

}  // namespace weightcast::plan
