// Goal: a canary goes to those that it is for, and stays with them. Method: many made-up names.
#include "registry/canary.h"

#include <map>
#include <set>
#include <string>

#include "tests/kit/catch.h"

namespace weightcast::registry {
namespace {

ChannelInfo channel_with(const Canary& canary) {
    ChannelInfo channel{.model = "m", .channel = "stable", .version = 1, .generation = 5};
    channel.canary = canary;
    return channel;
}

std::set<int> chosen(std::uint32_t percent, const std::string& model = "m") {
    ChannelInfo channel = channel_with({2, percent, {}});
    channel.model = model;
    std::set<int> who;
    for (int i = 0; i < 2000; ++i) {
        if (version_for(channel, "replica" + std::to_string(i), {}) == 2) who.insert(i);
    }
    return who;
}

TEST_CASE("a percentage of the names gets the canary, more of them as it grows") {
    const auto few = chosen(10);
    const auto half = chosen(50);
    CHECK(few.size() > 140);
    CHECK(few.size() < 260);
    CHECK(half.size() > 880);
    CHECK(half.size() < 1120);
    for (const int i : few) CHECK(half.contains(i));
    CHECK(chosen(100).size() == 2000);
    CHECK(chosen(10, "other") != few);
}

TEST_CASE("labels are a condition, all of them") {
    const ChannelInfo channel = channel_with({2, 100, {{"ring", "0"}, {"zone", "a"}}});
    CHECK(version_for(channel, "x", {{"ring", "0"}, {"zone", "a"}, {"rack", "r"}}) == 2);
    CHECK(version_for(channel, "x", {{"ring", "0"}, {"zone", "b"}}) == 1);
    CHECK(version_for(channel, "x", {{"ring", "0"}}) == 1);
    CHECK(version_for(channel, "x", {}) == 1);
}

TEST_CASE("without a canary all get the channel's version") {
    const ChannelInfo channel{.model = "m", .channel = "stable", .version = 7};
    CHECK(version_for(channel, "x", {}) == 7);
}

}  // namespace
}  // namespace weightcast::registry
