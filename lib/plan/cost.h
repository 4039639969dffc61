// Which shape of a plan is the fastest, in how many blocks. Pure, deterministic.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/shapes.h"

namespace weightcast::plan {

struct PlanOptions {
    // To choose from; the first of equals is taken.
    std::vector<Shape> shapes{Shape::chain, Shape::two_tree, Shape::forest, Shape::binomial};
    std::vector<std::uint32_t> stripes{2, 4, 8};  // that a forest may have
    std::uint64_t block_bytes_min = 65536;        // but never less than one block
    std::uint64_t block_bytes_max = 64U << 20U;
    bool power_of_two = false;  // a block, as chunks have to be
};

struct PlanChoice {
    Shape shape = Shape::chain;
    std::uint32_t stripes = 1;      // 2 for two_tree; 1 for binomial, which has none
    std::uint64_t blocks = 1;       // k
    std::uint64_t block_bytes = 0;  // the last may be shorter
    std::uint64_t rounds = 0;
    double seconds = 0;  // predicted
};

// For `ranks` with the source: the least of R(k) (b/B + alpha), with R from shapes.h and b the size
// of a block. With R(k) = q (k + c) it is at k = sqrt(c S/(B alpha)), or at a limit of the size; if
// alpha is 0, blocks are as small as they may be. A forest is planned for each number of stripes
// to know R: tens of milliseconds for 4,096 ranks.
// REQUIRES: ranks >= 2, bytes > 0, rate > 0, alpha >= 0, 0 < block_bytes_min <= block_bytes_max,
//           shapes are given, and stripes if forest is one of them
PlanChoice choose_plan(std::uint32_t ranks, std::uint64_t bytes, double rate, double alpha,
                       const PlanOptions& options = {});

}  // namespace weightcast::plan
