// Goal: the lower bound is that of its smallest cut, and names it. Method: cases worked by hand.
#include "plan/bound.h"

#include "tests/kit/catch.h"

namespace weightcast::plan {
namespace {

TEST_CASE("the narrowest of the cuts sets the bound") {
    BoundInput input{.bytes = 1000, .receiver_rate = 100, .holder_rates = {40, 80}};
    CHECK(lower_bound(input).seconds == 10);
    CHECK(lower_bound(input).limited_by == "receiver port");
    input.holder_rates = {40, 10};
    CHECK(lower_bound(input).seconds == 20);
    CHECK(lower_bound(input).limited_by == "holder ports");
    input.copy_rate = 5;
    CHECK(lower_bound(input).seconds == 200);
    CHECK(lower_bound(input).limited_by == "memory copy");
}

TEST_CASE("one holder without a known limit lifts the holders' cut") {
    const BoundInput input{.bytes = 1000, .receiver_rate = 100, .holder_rates = {1, 0}};
    CHECK(lower_bound(input).limited_by == "receiver port");
}

TEST_CASE("without any known rate there is no bound") {
    const Bound bound = lower_bound({.bytes = 1000, .holder_rates = {0}});
    CHECK(bound.seconds == 0);
    CHECK(bound.limited_by == "nothing known");
}

TEST_CASE("no bytes need no time") {
    CHECK(lower_bound({.bytes = 0, .receiver_rate = 10}).seconds == 0);
}

}  // namespace
}  // namespace weightcast::plan
