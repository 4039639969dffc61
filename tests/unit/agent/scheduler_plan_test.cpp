// Goal: with a plan the scheduler reads each stripe from its parent, early where the transport can
// wait, and finds its way around parents that are silent, starved, gone or lying. Method: holders
// on a made-up clock that answer reads of chunks once they have them.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "agent/scheduler.h"
#include "tests/kit/catch.h"

namespace weightcast::agent {
namespace {

using std::chrono::milliseconds;

constexpr std::uint32_t kChunks = 400;
constexpr std::uint64_t kChunkBytes = 1 << 16;

std::vector<std::uint32_t> all_chunks() {
    std::vector<std::uint32_t> chunks(kChunks);
    std::iota(chunks.begin(), chunks.end(), 0U);
    return chunks;
}

struct Holder {
    Duration per_chunk = milliseconds(1);    // that it sends
    Duration gains_each = Duration::zero();  // a chunk each so long, in ascending order; 0: has all
    bool silent = false;
    bool lies = false;
    std::set<std::uint32_t> sent;
    TimePoint free_at{};
};

class World {
  public:
    explicit World(std::vector<Holder> initial, bool can_wait = true,
                   const SchedulerOptions& options = {})
        : holders(std::move(initial)), scheduler(kChunks, kChunkBytes, all_chunks(), 1, options) {
        HolderTraits traits;
        traits.can_wait = can_wait;
        for (std::size_t i = 0; i < holders.size(); ++i) scheduler.add_holder(traits, now);
    }

    // Stripe by stripe who is the parent, and who is an ancestor.
    void plan(const std::vector<HolderIndex>& parents, const std::vector<HolderIndex>& ancestors) {
        scheduler.set_plan(static_cast<std::uint32_t>(parents.size()), now);
        std::map<HolderIndex, Role> roles;
        for (const HolderIndex ancestor : ancestors) roles[ancestor].ancestor = true;
        for (std::size_t s = 0; s < parents.size(); ++s) {
            roles[parents[s]].stripes |= std::uint64_t{1} << s;
        }
        for (const auto& [holder, role] : roles) scheduler.set_role(holder, role, now);
    }

    bool has(const Holder& holder, std::uint32_t chunk) const {
        if (holder.gains_each == Duration::zero()) return true;
        return TimePoint{} + holder.gains_each * static_cast<std::int64_t>(chunk + 1) <= now;
    }

    bool run(Duration limit) {
        const TimePoint end = now + limit;
        while (!scheduler.finished() && now < end) {
            actions.clear();
            scheduler.next_actions(now, actions);
            for (const Action& action : actions) act(action);
            now += std::chrono::microseconds(100);
            answer();
        }
        return scheduler.finished();
    }

    void act(const Action& action) {
        if (action.kind == Action::Kind::silent_holder) {
            dropped.push_back(action.holder);
            scheduler.remove_holder(action.holder);
        }
        if (action.kind == Action::Kind::quarantine_holder) quarantined.push_back(action.holder);
        if (action.kind == Action::Kind::read_page) pages.push_back(action.holder);
        if (action.kind == Action::Kind::read_chunk) {
            gated += action.gated ? 1 : 0;
            reads.push_back(action);
        }
    }

    void answer() {
        for (const HolderIndex index : std::exchange(pages, {})) {
            if (holders[index].silent) continue;
            PageView page;
            page.chunk_count = kChunks;
            page.words.resize((kChunks + 63) / 64);
            for (std::uint32_t c = 0; c < kChunks; ++c) {
                if (has(holders[index], c)) page.words[c / 64] |= std::uint64_t{1} << (c % 64);
            }
            const bool complete = holders[index].gains_each == Duration::zero();
            page.state = complete ? PageState::complete : PageState::partial;
            scheduler.on_page(index, page, now);
        }
        for (const Action& read : std::exchange(reads, {})) {
            Holder& holder = holders[read.holder];
            if (holder.silent || !has(holder, read.chunk) || holder.free_at > now) {
                reads.push_back(read);
                continue;
            }
            holder.free_at = std::max(now, holder.free_at) + holder.per_chunk;
            holder.sent.insert(read.chunk);
            if (!scheduler.on_chunk_read(read.holder, read.chunk, ReadOutcome::ok, now)) continue;
            scheduler.on_chunk_verdict(read.holder, read.chunk,
                                       holder.lies ? Verdict::corrupt : Verdict::verified);
        }
    }

    std::uint32_t of_stripe(HolderIndex index, std::uint32_t stripe, std::uint32_t stripes) const {
        const auto& sent = holders[index].sent;
        return static_cast<std::uint32_t>(std::count_if(
            sent.begin(), sent.end(), [&](std::uint32_t c) { return c % stripes == stripe; }));
    }

    std::vector<Holder> holders;
    PullScheduler scheduler;
    TimePoint now{};
    std::vector<Action> actions;
    std::vector<Action> reads;
    std::vector<HolderIndex> pages;
    std::vector<HolderIndex> dropped;
    std::vector<HolderIndex> quarantined;
    std::uint32_t gated = 0;
};

Holder relay(Duration each) {
    Holder holder;
    holder.gains_each = each;
    return holder;
}

TEST_CASE("plan: reads that wait leave room for the reads of other stripes") {
    // Of four parents, three get their chunks only once this reader has those of the fourth.
    for (const std::uint32_t in_flight_max : {1U, 2U, 4U, 7U, 48U}) {
        CAPTURE(in_flight_max);
        const Holder late{.gains_each = std::chrono::hours(1)};
        World world({late, late, late, {}}, true, {.in_flight_max = in_flight_max});
        world.plan({0, 1, 2, 3}, {});
        world.run(std::chrono::seconds(1));
        std::size_t of_the_fourth = 0;
        for (const std::uint32_t chunk : world.holders[3].sent) of_the_fourth += chunk % 4 == 3;
        CHECK(of_the_fourth == kChunks / 4);
        CHECK(world.gated <= 4 * (in_flight_max / 4));
    }
}

TEST_CASE("plan: reads that wait at a former parent count, too") {
    const Holder late{.per_chunk = {}, .gains_each = std::chrono::hours(1)};
    World world({late, late, {}}, true, {.in_flight_max = 4});
    world.plan({0, 2}, {});
    world.run(milliseconds(10));
    CHECK(world.gated == 4);  // of the other stripe before its parent's page was there
    world.plan({1, 2}, {});
    world.run(std::chrono::seconds(1));
    CHECK(world.gated == 4);
    CHECK(std::ranges::count_if(world.holders[2].sent,
                                [](std::uint32_t chunk) { return chunk % 2 == 1; }) == kChunks / 2);
}

TEST_CASE(
    "plan: a parent's window is refilled several chunks at a time, and no stripe goes empty") {
    SchedulerOptions options;
    options.window_min = 8;
    World world({Holder{}}, true, options);
    world.plan({0, 0, 0}, {});
    const auto ask = [&] {
        world.actions.clear();
        world.scheduler.next_actions(world.now, world.actions);
        return std::ranges::count(world.actions, Action::Kind::read_chunk, &Action::kind);
    };
    const auto get = [&](std::uint32_t chunk) {
        REQUIRE(world.scheduler.on_chunk_read(0, chunk, ReadOutcome::ok, world.now));
        world.scheduler.on_chunk_verdict(0, chunk, Verdict::verified);
    };
    REQUIRE(ask() == 8);
    SECTION("at the half") {
        for (const std::uint32_t chunk : {0U, 1U, 3U}) get(chunk);
        CHECK(ask() == 0);
        get(4);
        CHECK(ask() == 4);
    }
    SECTION("where a stripe has nothing on its way") {
        get(2);
        CHECK(ask() == 0);
        get(5);
        CHECK(ask() == 2);
    }
}

TEST_CASE("plan: each stripe is read from its parent and from nobody else") {
    World world({Holder{}, Holder{}, Holder{}});
    world.plan({0, 1}, {2});
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.of_stripe(0, 0, 2) >= kChunks / 2 - 8);  // at the end a parent may help the other
    CHECK(world.of_stripe(1, 1, 2) >= kChunks / 2 - 8);
    CHECK(world.holders[2].sent.empty());
}

TEST_CASE("plan: chunks are asked for before a relay has them, where its transport can wait") {
    World world({relay(milliseconds(2)), Holder{}});
    world.plan({0}, {1});
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.gated > kChunks / 2);
    CHECK(world.holders[0].sent.size() == kChunks);
    // Hardly later than the relay itself.
    CHECK(world.now - TimePoint{} < milliseconds(2 * kChunks + 20));
}

TEST_CASE("plan: a page that costs a connection is read when it is needed, or after a while") {
    const SchedulerOptions options;
    PullScheduler scheduler(kChunks, kChunkBytes, all_chunks(), 1, options);
    const TimePoint start{};
    HolderTraits traits;
    traits.can_wait = traits.page_apart = true;
    const HolderIndex parent = scheduler.add_holder(traits, start);
    const HolderIndex spare = scheduler.add_holder(traits, start);
    scheduler.set_plan(1, start);
    scheduler.set_role(parent, {1, false}, start);
    const auto pages = [&](TimePoint now) {
        std::vector<Action> actions;
        scheduler.next_actions(now, actions);
        std::erase_if(actions, [](const Action& a) { return a.kind != Action::Kind::read_page; });
        return actions;
    };
    CHECK(pages(start).empty());
    CHECK(scheduler.in_flight() > 0);
    CHECK(pages(start + options.page_interval_other - milliseconds(1)).empty());
    SECTION("when it is needed") {
        scheduler.remove_holder(parent);
        const auto wanted = pages(start + milliseconds(1));
        REQUIRE(wanted.size() == 1);
        CHECK(wanted[0].holder == spare);
    }
    SECTION("after a while") { CHECK(pages(start + options.page_interval_other).size() == 2); }
}

TEST_CASE("plan: where the transport cannot wait, the relay's page tells") {
    World world({relay(milliseconds(2)), Holder{}}, false);
    world.plan({0}, {1});
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.gated == 0);
    CHECK(world.holders[0].sent.size() == kChunks);
    CHECK(world.now - TimePoint{} < milliseconds(2 * kChunks + 40));
}

TEST_CASE("plan: a silent parent is taken for dead, an ancestor serves meanwhile") {
    World world({relay(milliseconds(1)), Holder{}, Holder{}});
    world.plan({0}, {1});
    world.run(milliseconds(100));
    REQUIRE(world.holders[0].sent.size() > 50);
    world.holders[0].silent = true;
    const TimePoint silent = world.now;
    while (world.dropped.empty() && world.now - silent < std::chrono::seconds(2)) {
        world.run(milliseconds(10));
    }
    CHECK(world.dropped == std::vector<HolderIndex>{0});
    CHECK(world.now - silent < milliseconds(500));
    CHECK(!world.holders[1].sent.empty());
    REQUIRE(world.run(std::chrono::seconds(5)));
}

TEST_CASE("plan: a parent that gets nothing itself is kept, and helped out for") {
    World world({relay(milliseconds(1)), Holder{}});
    world.plan({0}, {1});
    world.run(milliseconds(100));
    world.holders[0].gains_each = std::chrono::hours(1);  // What it had it has shown.
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.dropped.empty());
    CHECK(world.holders[1].sent.size() > kChunks / 2);
}

TEST_CASE("plan: when a parent goes, its ancestor is asked at once and others only later") {
    World world({relay(milliseconds(1)), relay(milliseconds(1)), Holder{}});
    world.plan({0}, {1});
    world.run(milliseconds(100));
    world.scheduler.remove_holder(0);
    std::erase_if(world.reads, [](const Action& read) { return read.holder == 0; });
    world.run(milliseconds(40));
    CHECK(!world.holders[1].sent.empty());
    CHECK(world.holders[2].sent.empty());
    REQUIRE(world.run(std::chrono::seconds(5)));
}

TEST_CASE("plan: a parent that lies is quarantined, its chunks come from others") {
    World world({Holder{}, Holder{}});
    world.holders[0].lies = true;
    world.plan({0}, {1});
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.quarantined == std::vector<HolderIndex>{0});
    CHECK(world.holders[1].sent.size() == kChunks);
}

TEST_CASE("plan: a parent that is done with its stripe helps a slower one") {
    World world({Holder{}, Holder{}});
    world.holders[1].per_chunk = milliseconds(10);
    world.plan({0, 1}, {});
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.of_stripe(0, 1, 2) > kChunks / 4);
}

TEST_CASE("plan: a new plan moves the reads, the same plan again changes nothing") {
    World world({Holder{}, Holder{}});
    world.plan({0}, {1});
    world.run(milliseconds(50));
    world.plan({0}, {1});
    world.run(milliseconds(50));
    CHECK(world.holders[1].sent.empty());
    world.plan({1}, {0});
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.holders[1].sent.size() > kChunks / 2);
}

TEST_CASE("plan: without one all holders are read from again") {
    World world({Holder{}, Holder{}});
    world.plan({0}, {});
    world.run(milliseconds(50));
    world.scheduler.set_plan(0, world.now);
    REQUIRE(world.run(std::chrono::seconds(5)));
    CHECK(world.holders[1].sent.size() > kChunks / 4);
}

}  // namespace
}  // namespace weightcast::agent
