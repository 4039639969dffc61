#include "plan/cost.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "base/assert.h"

namespace weightcast::plan {
namespace {

// A shape with everything chosen but the number of blocks.
struct Candidate {
    Shape shape = Shape::chain;
    std::uint32_t stripes = 1;
    std::function<std::uint64_t(std::uint64_t)> rounds;  // of a number of blocks
};

std::vector<Candidate> candidates(std::uint32_t ranks, const PlanOptions& options) {
    std::vector<Candidate> all;
    const auto add_trees = [&](Shape shape, const Trees& trees) {
        const TreePipeline pipeline(trees);
        all.push_back({shape, pipeline.stripes(),
                       [pipeline](std::uint64_t blocks) { return pipeline.rounds(blocks); }});
    };
    for (const Shape shape : options.shapes) {
        switch (shape) {
            case Shape::chain:
                add_trees(shape, chain_tree(ranks));
                break;
            case Shape::two_tree:
                add_trees(shape, two_trees(ranks));
                break;
            case Shape::forest:
                for (const std::uint32_t stripes : options.stripes) {
                    add_trees(shape, forest_trees(ranks, stripes));
                }
                break;
            case Shape::binomial:
                all.push_back({shape, 1, [ranks](std::uint64_t blocks) {
                                   return binomial_rounds(ranks, blocks);
                               }});
                break;
        }
    }
    return all;
}

std::uint64_t ceil_div(std::uint64_t number, std::uint64_t by) { return (number - 1) / by + 1; }

// Numbers of blocks among which the least time is, in ascending order.
std::vector<std::uint64_t> blocks_to_try(const Candidate& candidate, std::uint64_t bytes,
                                         double rate, double alpha, const PlanOptions& options) {
    const std::uint64_t least = ceil_div(bytes, options.block_bytes_max);
    const std::uint64_t most = std::max(least, bytes / options.block_bytes_min);
    if (alpha <= 0) return {most};
    // R(k) = q (k + c), read off at two multiples of the stripes.
    const std::uint64_t stripes = candidate.stripes;
    const auto once = static_cast<double>(candidate.rounds(stripes));
    const auto twice = static_cast<double>(candidate.rounds(2 * stripes));
    const double c = static_cast<double>(stripes) * (once / (twice - once) - 1);
    const double best = std::sqrt(std::max(c, 0.0) * static_cast<double>(bytes) / (rate * alpha));
    const auto middle = static_cast<std::uint64_t>(
        std::clamp(best, static_cast<double>(least), static_cast<double>(most)));
    // Between multiples R grows in steps.
    const std::uint64_t first = std::max(least, middle - std::min(middle, stripes));
    const std::uint64_t last = std::min(most, middle + stripes + 1);
    std::vector<std::uint64_t> blocks;
    for (std::uint64_t k = first; k <= last; ++k) blocks.push_back(k);
    return blocks;
}

std::vector<std::uint64_t> block_sizes(const Candidate& candidate, std::uint64_t bytes, double rate,
                                       double alpha, const PlanOptions& options) {
    std::vector<std::uint64_t> sizes;
    if (!options.power_of_two) {
        for (const std::uint64_t k : blocks_to_try(candidate, bytes, rate, alpha, options)) {
            sizes.push_back(ceil_div(bytes, k));
        }
        return sizes;
    }
    for (std::uint32_t bits = 0; bits < 64; ++bits) {
        const std::uint64_t size = std::uint64_t{1} << bits;
        if (size > options.block_bytes_max) break;
        if (size >= options.block_bytes_min) sizes.push_back(size);
    }
    return sizes;
}

}  // namespace

PlanChoice choose_plan(std::uint32_t ranks, std::uint64_t bytes, double rate, double alpha,
                       const PlanOptions& options) {
    WEIGHTCAST_ASSERT(ranks >= 2 && bytes > 0 && rate > 0 && alpha >= 0);
    WEIGHTCAST_ASSERT(options.block_bytes_min > 0 &&
                      options.block_bytes_min <= options.block_bytes_max);
    std::optional<PlanChoice> best;
    for (const Candidate& candidate : candidates(ranks, options)) {
        for (const std::uint64_t size : block_sizes(candidate, bytes, rate, alpha, options)) {
            PlanChoice choice;
            choice.shape = candidate.shape;
            choice.stripes = candidate.stripes;
            choice.block_bytes = size;
            choice.blocks = ceil_div(bytes, size);
            choice.rounds = candidate.rounds(choice.blocks);
            const auto block = static_cast<double>(std::min(size, bytes));
            choice.seconds = static_cast<double>(choice.rounds) * (block / rate + alpha);
            if (!best || choice.seconds < best->seconds) best = choice;
        }
    }
    WEIGHTCAST_ASSERT(best.has_value());
    return *best;
}

}  // namespace weightcast::plan
