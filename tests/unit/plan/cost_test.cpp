// Goal: the plan that is chosen is the cheapest by the model, and its prediction is the rounds that
// its shape needs. Method: all numbers of blocks are tried; the bound is reached or kept.
#include "plan/cost.h"

#include "plan/bound.h"
#include "tests/kit/catch.h"

namespace weightcast::plan {
namespace {

using Catch::Matchers::WithinRel;

constexpr double kRate = 48e9;
constexpr double kAlpha = 20e-6;

PlanOptions only(Shape shape, std::uint32_t stripes = 4) {
    PlanOptions options;
    options.shapes = {shape};
    options.stripes = {stripes};
    options.block_bytes_min = 1;
    options.block_bytes_max = UINT64_MAX;
    return options;
}

double bound(std::uint32_t ranks, std::uint64_t bytes, double alpha) {
    FleetOptions fleet;
    fleet.receivers = ranks - 1;
    fleet.port = kRate;
    return fleet_bound(make_fleet(fleet), bytes, {alpha, 0}).seconds;
}

}  // namespace

TEST_CASE("the binomial pipeline reaches the bound of equal ports") {
    for (const std::uint32_t n : {2U, 3U, 9U, 100U, 512U, 4096U}) {
        const PlanChoice choice =
            choose_plan(n, 8'000'000'000, kRate, kAlpha, only(Shape::binomial));
        CAPTURE(n, choice.blocks);
        // Blocks are whole bytes.
        CHECK_THAT(choice.seconds, WithinRel(bound(n, 8'000'000'000, kAlpha), 1e-6));
    }
}

TEST_CASE("no number of blocks is better than the one that is chosen") {
    const std::uint64_t bytes = 40'000'000;
    for (const Shape shape : {Shape::chain, Shape::two_tree, Shape::forest, Shape::binomial}) {
        for (const std::uint32_t n : {2U, 3U, 10U, 33U}) {
            PlanOptions options = only(shape);
            const PlanChoice choice = choose_plan(n, bytes, kRate, kAlpha, options);
            CAPTURE(to_string(shape), n, choice.blocks);
            CHECK(choice.shape == shape);
            CHECK(choice.blocks == (bytes - 1) / choice.block_bytes + 1);
            CHECK_THAT(choice.seconds,
                       WithinRel(static_cast<double>(choice.rounds) *
                                     (static_cast<double>(choice.block_bytes) / kRate + kAlpha),
                                 1e-12));
            CHECK(choice.seconds >= bound(n, bytes, kAlpha) * (1 - 1e-12));
            for (std::uint64_t k = 1; k <= 300; ++k) {
                options.block_bytes_min = options.block_bytes_max = (bytes - 1) / k + 1;
                const PlanChoice other = choose_plan(n, bytes, kRate, kAlpha, options);
                CAPTURE(k, other.blocks, other.seconds);
                CHECK(choice.seconds <= other.seconds * (1 + 1e-5));
            }
        }
    }
}

TEST_CASE("few ranks make a chain, many a tree") {
    PlanOptions options;
    options.shapes = {Shape::chain, Shape::two_tree, Shape::forest};
    CHECK(choose_plan(2, 8'000'000'000, kRate, kAlpha, options).shape == Shape::chain);
    CHECK(choose_plan(4, 8'000'000'000, kRate, kAlpha, options).shape == Shape::chain);
    CHECK(choose_plan(500, 8'000'000'000, kRate, kAlpha, options).shape != Shape::chain);
    CHECK(choose_plan(500, 8'000'000'000, kRate, kAlpha).shape == Shape::binomial);
}

TEST_CASE("blocks keep to the sizes that are allowed") {
    PlanOptions options;
    options.block_bytes_min = 1U << 20U;
    options.block_bytes_max = 4U << 20U;
    const std::uint64_t bytes = std::uint64_t{1} << 30U;
    // Free blocks are as small as they may be.
    CHECK(choose_plan(9, bytes, kRate, 0, options).block_bytes == options.block_bytes_min);
    CHECK(choose_plan(9, bytes, kRate, 1, options).block_bytes == options.block_bytes_max);
    // Less than one block is one block.
    CHECK(choose_plan(9, 1000, kRate, kAlpha, options).blocks == 1);
    options.power_of_two = true;
    const PlanChoice choice = choose_plan(9, bytes + 1, kRate, kAlpha, options);
    CHECK((choice.block_bytes & (choice.block_bytes - 1)) == 0);
    CHECK(choice.blocks == bytes / choice.block_bytes + 1);
}

}  // namespace weightcast::plan
