// Goal: the forest gives everyone a parent in every stripe, within the ports' room, and leaves
// alone whom a change does not concern. Method: fleets of all kinds, then random changes, each
// followed by the forest's own check.
#include "plan/forest.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>

#include "base/random.h"
#include "tests/kit/catch.h"

namespace weightcast::plan {
namespace {

constexpr MemberId kSource = 1;

Member source() { return {kSource, "", "", 0, true, true}; }

std::vector<Member> fleet(std::uint32_t count, MemberId first = 2) {
    std::vector<Member> members(count);
    for (std::uint32_t i = 0; i < count; ++i) members[i].id = first + i;
    return members;
}

Forest flat(std::uint32_t stripes, std::uint32_t receivers) {
    Forest forest(ForestOptions{stripes});
    forest.join(std::vector{source()});
    forest.join(fleet(receivers));
    return forest;
}

std::uint32_t depth_max(const Forest& forest, std::uint32_t receivers) {
    std::uint32_t most = 0;
    for (MemberId id = 2; id < 2 + receivers; ++id) {
        for (std::uint32_t s = 0; s < forest.stripes(); ++s) {
            most = std::max(most, forest.depth(id, s));
        }
    }
    return most;
}

// Stripes that enter each rack from outside.
std::map<std::string, std::uint32_t> imports(const Forest& forest,
                                             const std::map<MemberId, std::string>& racks) {
    std::map<std::string, std::uint32_t> count;
    for (const auto& [id, rack] : racks) {
        if (forest.complete(id)) continue;
        for (std::uint32_t s = 0; s < forest.stripes(); ++s) {
            if (racks.at(forest.parent(id, s)) != rack) ++count[rack];
        }
    }
    return count;
}

}  // namespace

TEST_CASE("large fleets of single ranks have three stripes, if they may") {
    const ForestOptions small = options_for(1e9, std::vector<Member>(1), 1, 2, 16);
    CHECK(small.stripes == 2);
    const auto stripes = [&](const ForestOptions& of, std::size_t readers, std::uint32_t ranks,
                             std::uint32_t stripes_max) {
        return with_readers(of, readers, ranks, stripes_max).stripes;
    };
    CHECK(stripes(small, 127, 1, 16) == 2);
    CHECK(stripes(small, 128, 1, 16) == 3);
    CHECK(stripes(small, 128, 1, 2) == 2);
    CHECK(stripes(small, 128, 4, 16) == 8);
    const ForestOptions many = options_for(1e9, std::vector<Member>(5), 1, 2, 16);
    CHECK(stripes(many, 1000, 1, 16) == 5);
    const ForestOptions large = with_readers(small, 1000, 1, 16);
    CHECK(stripes(large, 1000, 2, 16) == 6);
    CHECK(stripes(large, 10, 1, 16) == 3);
}

TEST_CASE("forest: one stripe is a chain") {
    const Forest forest = flat(1, 15);
    REQUIRE(forest.check() == "");
    std::set<std::uint32_t> depths;
    for (MemberId id = 1; id <= 16; ++id) {
        depths.insert(forest.depth(id, 0));
        CHECK(forest.readers(id) <= 1);
    }
    CHECK(depths.size() == 16);
}

TEST_CASE("forest: equal ports get trees of logarithmic depth within their room") {
    const auto [stripes, receivers, depth] = GENERATE(table<std::uint32_t, std::uint32_t,
                                                            std::uint32_t>(
        {{2, 3, 2}, {2, 7, 3}, {2, 15, 4}, {2, 63, 7}, {4, 63, 5}, {4, 1023, 7}, {8, 1023, 6}}));
    const Forest forest = flat(stripes, receivers);
    REQUIRE(forest.check() == "");
    CHECK(depth_max(forest, receivers) <= depth);
    // The source sends everything once.
    CHECK(forest.readers(kSource) == stripes);
    for (MemberId id = 2; id < 2 + receivers; ++id) CHECK(forest.readers(id) <= stripes);
}

// When the member gets a stripe, in turns from the first chunk on.
std::uint32_t turns_until(const Forest& forest, MemberId id, std::uint32_t stripe) {
    std::uint32_t turns = stripe;
    for (; forest.parent(id, stripe) != kNobody; id = forest.parent(id, stripe)) {
        turns += forest.turn(id, stripe);
    }
    return turns;
}

TEST_CASE("forest: the readers of a member have turns, and their stripes come in different ones") {
    constexpr std::uint32_t kStripes = 3;
    const std::uint32_t receivers = GENERATE(200U, 511U, 1000U);
    const Forest forest = flat(kStripes, receivers);
    std::set<std::array<std::uint64_t, 3>> seen;  // parent, stripe, turn
    std::uint32_t meeting = 0;
    for (MemberId id = 2; id < 2 + receivers; ++id) {
        std::set<std::uint32_t> turns;
        for (std::uint32_t s = 0; s < kStripes; ++s) {
            const std::uint32_t turn = forest.turn(id, s);
            CHECK(turn >= 1);
            CHECK(turn <= kStripes);
            CHECK(seen.insert({forest.parent(id, s), s, turn}).second);
            turns.insert(turns_until(forest, id, s) % kStripes);
        }
        if (turns.size() < kStripes) ++meeting;
    }
    CHECK(meeting * 10 < receivers);  // by chance 7 of 9 would
}

TEST_CASE("forest: a member is interior in one stripe") {
    const Forest forest = flat(4, 100);
    for (MemberId id = 2; id < 102; ++id) {
        std::set<std::uint32_t> interior;
        for (MemberId reader = 2; reader < 102; ++reader) {
            for (std::uint32_t s = 0; s < 4; ++s) {
                if (forest.parent(reader, s) == id) interior.insert(s);
            }
        }
        CHECK(interior.size() <= 1);
    }
}

TEST_CASE("forest: each byte enters a rack once") {
    const std::uint32_t stripes = GENERATE(1U, 2U, 4U);
    Forest forest(ForestOptions{stripes});
    std::map<MemberId, std::string> racks{{kSource, "rack-0"}};
    Member first = source();
    first.rack = "rack-0";
    forest.join(std::vector{first});
    std::vector<Member> members = fleet(15);
    // In an order that has nothing to do with racks.
    for (Member& member : members) {
        member.rack = fmt::format("rack-{}", member.id * 7 % 16 / 4);
        racks[member.id] = member.rack;
    }
    forest.join(members);
    REQUIRE(forest.check() == "");
    const auto count = imports(forest, racks);
    CHECK(count.size() == 3);
    for (const auto& [rack, imported] : count) CHECK(imported == stripes);
    std::map<std::string, std::uint32_t> exported;
    for (const auto& [id, rack] : racks) {
        for (std::uint32_t s = 0; id != kSource && s < stripes; ++s) {
            const std::string& from = racks.at(forest.parent(id, s));
            if (from != rack) ++exported[from];
        }
    }
    // Small racks do not always come out even.
    for (const auto& [rack, count_out] : exported) CHECK(count_out <= stripes * 3 / 2);
}

TEST_CASE("forest: racks are not overloaded when a fleet that begins to read is planned anew") {
    for (std::uint64_t seed = 1; seed <= 50; ++seed) {
        INFO("seed " << seed);
        Random random(seed);
        Forest forest(ForestOptions{2});
        Member first = source();
        first.rack = "rack-0";
        forest.join(std::vector{first});
        std::vector<Member> members = fleet(15);
        for (Member& member : members) member.rack = fmt::format("rack-{}", (member.id - 1) / 4);
        for (std::size_t i = members.size() - 1; i > 0; --i) {
            std::swap(members[i], members[random.below(i + 1)]);
        }
        const auto early = static_cast<std::ptrdiff_t>(1 + random.below(6));
        forest.join(std::vector(members.begin(), members.begin() + early));
        forest.join_and_replan(std::vector(members.begin() + early, members.end()),
                               forest.options());
        REQUIRE(forest.check() == "");
        std::uint32_t beyond = 0;
        for (MemberId id = 1; id <= 16; ++id) {
            if (forest.readers(id) > 2) beyond += forest.readers(id) - 2;
        }
        CHECK(beyond <= 1);
        std::map<MemberId, std::string> racks{{kSource, "rack-0"}};
        for (const Member& member : members) racks[member.id] = member.rack;
        for (const auto& [rack, imported] : imports(forest, racks)) {
            if (rack != "rack-0") CHECK(imported <= 3);
        }
    }
}

TEST_CASE("forest: each byte enters a host once") {
    Forest forest(ForestOptions{4});
    forest.join(std::vector{source()});
    std::vector<Member> members = fleet(64);
    for (Member& member : members) member.host = fmt::format("host-{}", member.id % 8);
    forest.join(members);
    REQUIRE(forest.check() == "");
    std::map<std::string, std::uint32_t> entered;
    for (const Member& member : members) {
        for (std::uint32_t s = 0; s < 4; ++s) {
            const MemberId parent = forest.parent(member.id, s);
            const bool same = parent != kSource && members[parent - 2].host == member.host;
            entered[member.host] += same ? 0 : 1;
        }
    }
    for (const auto& [host, count] : entered) CHECK(count == 4);
}

TEST_CASE("forest: the ranks of a host share the import, each over its own rail") {
    constexpr std::uint32_t kRanks = 8;
    constexpr std::uint32_t kHosts = 32;
    Forest forest(ForestOptions{2 * kRanks, kRanks});
    Member first = source();
    first.host = "host-0";
    forest.join(std::vector{first});
    std::vector<Member> members = fleet(kRanks * kHosts - 1);
    std::map<MemberId, std::string> host_of{{kSource, first.host}};
    for (Member& member : members) {
        member.host = fmt::format("host-{}", (member.id - 1) / kRanks);
        host_of[member.id] = member.host;
    }
    forest.join(members);
    REQUIRE(forest.check() == "");
    std::map<MemberId, std::uint32_t> out;
    std::map<std::string, std::uint32_t> entered;
    for (const Member& member : members) {
        std::uint32_t in = 0;
        for (std::uint32_t s = 0; s < forest.stripes(); ++s) {
            const MemberId parent = forest.parent(member.id, s);
            CHECK(forest.depth(member.id, s) <= 9);
            if (host_of[parent] == member.host) continue;
            ++in;
            ++out[parent];
            ++entered[member.host];
        }
        // A rank's port brings its own stripes and no others. The source's host has a reader less.
        if (member.host != first.host) CHECK(in == 2);
    }
    for (const auto& [host, count] : entered) CHECK(count == 2 * kRanks);
    // Where the source's host has an owner less, others stand in.
    std::uint32_t beyond = 0;
    for (const auto& [id, count] : out) beyond += count > 2 ? count - 2 : 0;
    CHECK(beyond <= kRanks);
}

TEST_CASE("forest: who joins late becomes a leaf, and nobody else changes") {
    Forest forest = flat(2, 15);
    const auto changes = forest.join(fleet(1, 100));
    REQUIRE(changes.size() == 2);
    for (const Assignment& change : changes) {
        CHECK(change.member == 100);
        CHECK(change.parent != kNobody);
    }
    CHECK(forest.readers(kSource) == 2);
    CHECK(forest.check() == "");
}

TEST_CASE("forest: who joins after one that was alone finds room in every stripe") {
    Forest forest(ForestOptions{2});
    forest.join(std::vector{source()});
    forest.join(fleet(1));
    forest.join(fleet(2, 3));
    REQUIRE(forest.check() == "");
    for (MemberId id = 1; id <= 4; ++id) CHECK(forest.readers(id) <= 2);
}

TEST_CASE("forest: a burst of a thousand joiners is no star") {
    Forest forest = flat(4, 3);
    forest.join(fleet(1000, 100));
    REQUIRE(forest.check() == "");
    CHECK(forest.readers(kSource) == 4);
    for (MemberId id = 100; id < 1100; ++id) CHECK(forest.readers(id) <= 4);
}

TEST_CASE("forest: when a member leaves only its readers change") {
    Forest forest = flat(2, 31);
    for (const MemberId gone : {MemberId{2}, MemberId{9}, MemberId{20}}) {
        std::set<MemberId> readers;
        for (MemberId id = 2; id < 33; ++id) {
            for (std::uint32_t s = 0; s < 2; ++s) {
                if (forest.contains(id) && forest.parent(id, s) == gone) readers.insert(id);
            }
        }
        std::set<MemberId> changed;
        for (const Assignment& change : forest.leave(gone)) {
            CHECK(change.parent != kNobody);
            changed.insert(change.member);
        }
        CHECK(changed == readers);
        CHECK(forest.check() == "");
    }
    // What the leavers sent is sent by those with room, and not by the source.
    CHECK(forest.readers(kSource) <= 2);
}

TEST_CASE("forest: a slow member becomes a leaf, its readers take its place") {
    Forest forest = flat(1, 7);
    MemberId slow = 0;
    for (MemberId id = 2; id < 9; ++id) {
        if (forest.depth(id, 0) == 3) slow = id;
    }
    const MemberId before = forest.parent(slow, 0);
    MemberId behind = 0;
    for (MemberId id = 2; id < 9; ++id) {
        if (forest.parent(id, 0) == slow) behind = id;
    }
    forest.demote(slow);
    REQUIRE(forest.check() == "");
    CHECK(forest.parent(behind, 0) == before);
    CHECK(forest.readers(slow) == 0);
    CHECK(forest.depth(slow, 0) == 7);
}

TEST_CASE("forest: slow ports are leaves, fast ones feed more") {
    Forest forest(ForestOptions{2, 1, 100});
    forest.join(std::vector{source()});
    std::vector<Member> members = fleet(12);
    for (Member& member : members) member.rate = member.id % 3 == 0 ? 25 : 100;
    members[1].rate = 400;
    forest.join(members);
    REQUIRE(forest.check() == "");
    for (const Member& member : members) {
        const auto readers = forest.readers(member.id);
        if (member.rate == 25) CHECK(readers == 0);
        if (member.rate == 100) CHECK(readers <= 2);
        if (member.rate == 400) CHECK(readers > 2);
    }
}

TEST_CASE("forest: who cannot read from its parent gets another, the parent's others stay") {
    Forest forest = flat(2, 15);
    const MemberId parent = forest.parent(10, 0);
    const auto changes = forest.part(10, parent);
    REQUIRE(!changes.empty());
    for (const Assignment& change : changes) {
        CHECK(change.member == 10);
        CHECK(change.parent != parent);
        CHECK(change.parent != kNobody);
    }
    CHECK(forest.check() == "");
}

TEST_CASE("forest: those that may relay only later take readers over") {
    const std::string host = GENERATE("", "all on one");
    Forest forest(ForestOptions{2});
    Member first = source();
    first.host = host;
    forest.join(std::vector{first});
    std::vector<Member> members = fleet(7);
    for (Member& member : members) {
        member.relays = false;
        member.host = host;
    }
    forest.join(members);
    CHECK(forest.readers(kSource) == 14);
    for (const Member& member : members) {
        forest.relay(member.id);
        forest.relieve();
        REQUIRE(forest.check() == "");
    }
    CHECK(forest.readers(kSource) <= 3);
    for (const Member& member : members) CHECK(forest.readers(member.id) <= 2);
    CHECK(forest.relieve().empty());
}

TEST_CASE("forest: the finished read nothing, which leaves room for joiners") {
    Forest forest = flat(2, 15);
    forest.finish(7);
    REQUIRE(forest.check() == "");
    CHECK(forest.depth(7, 0) == 0);
    CHECK(forest.depth(7, 1) == 0);
    const auto changes = forest.join(fleet(1, 100));
    CHECK(changes.size() == 2);
    for (MemberId id = 1; id <= 16; ++id) CHECK(forest.readers(id) <= 2);
}

TEST_CASE("forest: members without any source wait for one") {
    Forest forest(ForestOptions{2});
    forest.join(fleet(5));
    CHECK(forest.parent(3, 0) == kNobody);
    const auto changes = forest.join(std::vector{source()});
    CHECK(changes.size() >= 10);
    REQUIRE(forest.check() == "");
    for (MemberId id = 2; id < 7; ++id) CHECK(forest.parent(id, 1) != kNobody);
    // The source dies; those below it wait, those below them stay.
    const auto orphaned = forest.leave(kSource);
    CHECK(orphaned.size() == 2);
    CHECK(forest.check() == "");
    forest.join(std::vector{source()});
    for (MemberId id = 2; id < 7; ++id) CHECK(forest.parent(id, 0) != kNobody);
}

TEST_CASE("forest: stays sound through random changes") {
    const std::uint64_t seed = GENERATE(range(1U, 21U));
    Random random(seed);
    const auto ranks = 1 + static_cast<std::uint32_t>(random.below(3));
    const auto share = 1 + static_cast<std::uint32_t>(random.below(6));
    const ForestOptions options{share * ranks, ranks, 100, 200};
    Forest forest(options);
    Member first = source();
    first.rack = "r0";
    forest.join(std::vector{first});
    std::vector<MemberId> living;
    MemberId next = 2;
    for (int step = 0; step < 200; ++step) {
        INFO("seed " << seed << " step " << step);
        const auto pick = [&] { return living[random.below(living.size())]; };
        switch (living.empty() ? 0 : random.below(8)) {
            case 0: {
                std::vector<Member> members(1 + random.below(8));
                for (Member& member : members) {
                    member.id = next++;
                    member.rack = fmt::format("r{}", random.below(4));
                    member.host = fmt::format("h{}", random.below(20));
                    member.rate = 50.0 * static_cast<double>(random.below(5));
                    member.relays = random.below(5) != 0;
                    living.push_back(member.id);
                }
                forest.join(members);
                break;
            }
            case 1: {
                const MemberId gone = pick();
                forest.leave(gone);
                std::erase(living, gone);
                break;
            }
            case 2:
                forest.finish(pick());
                break;
            case 3:
                forest.demote(pick());
                break;
            case 4: {
                const MemberId id = pick();
                if (!forest.complete(id)) forest.part(id, forest.parent(id, 0));
                break;
            }
            case 5:
                forest.relieve();
                break;
            case 6:
                random.below(2) == 0 ? forest.relay(pick()) : forest.suspend(pick());
                break;
            default:
                forest.adopt_orphans();
                break;
        }
        REQUIRE(forest.check() == "");
    }
}

}  // namespace weightcast::plan
