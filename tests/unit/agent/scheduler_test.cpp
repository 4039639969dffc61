// Goal: the pull scheduler asks for every chunk, from the right holder, whatever fails. Method: a
// small world in which holders answer at their own pace on a made-up clock.
#include "agent/scheduler.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <vector>

#include "tests/kit/catch.h"

namespace weightcast::agent {
namespace {

using std::chrono::milliseconds;

constexpr std::uint32_t kChunks = 200;
constexpr std::uint64_t kChunkBytes = 1 << 20;

std::vector<std::uint32_t> all_chunks(std::uint32_t count = kChunks) {
    std::vector<std::uint32_t> chunks(count);
    std::iota(chunks.begin(), chunks.end(), 0U);
    return chunks;
}

struct WorldHolder {
    bool complete = true;
    std::vector<bool> held = std::vector<bool>(kChunks);
    Duration per_chunk = milliseconds(1);
    bool alive = true;
    bool answers = true;
    double corrupt = 0;  // probability
    std::uint32_t sent = 0;
    TimePoint free_at{};
};

// Runs a scheduler against holders until it has all, or `limit` of made-up time has passed.
class World {
  public:
    explicit World(std::vector<WorldHolder> initial, SchedulerOptions options = {},
                   std::uint64_t seed = 1)
        : holders(std::move(initial)),
          scheduler(kChunks, kChunkBytes, all_chunks(), seed, options),
          random(seed) {
        for (std::size_t i = 0; i < holders.size(); ++i) scheduler.add_holder({}, now);
    }

    bool run(Duration limit = std::chrono::seconds(100)) {
        const TimePoint end = now + limit;
        while (!scheduler.finished() && now < end) {
            actions.clear();
            scheduler.next_actions(now, actions);
            for (const Action& action : actions) act(action);
            TimePoint next = std::min(end, scheduler.next_deadline());
            if (!answers.empty()) next = std::min(next, answers.begin()->first);
            now = std::max(next, now + std::chrono::microseconds(1));
            while (!answers.empty() && answers.begin()->first <= now) {
                const Action action = answers.begin()->second;
                answers.erase(answers.begin());
                answer(action);
            }
            if (on_tick) on_tick();
        }
        return scheduler.finished();
    }

    void act(const Action& action) {
        WorldHolder& holder = holders[action.holder];
        if (action.kind == Action::Kind::quarantine_holder) {
            quarantined.push_back(action.holder);
            return;
        }
        if (!holder.answers) {
            if (action.kind == Action::Kind::read_chunk) silent.push_back(action);
            return;
        }
        if (action.kind == Action::Kind::read_page) {
            answers.emplace(now + std::chrono::microseconds(100), action);
            return;
        }
        in_flight_most = std::max(in_flight_most, scheduler.in_flight());
        holder.free_at = std::max(now, holder.free_at) + holder.per_chunk;
        answers.emplace(holder.free_at, action);
    }

    void answer(const Action& action) {
        WorldHolder& holder = holders[action.holder];
        if (!holder.alive) {
            scheduler.remove_holder(action.holder);
            if (action.kind == Action::Kind::read_chunk) {
                scheduler.on_chunk_read(action.holder, action.chunk, ReadOutcome::failed, now);
            }
            return;
        }
        if (action.kind == Action::Kind::read_page) {
            PageView page;
            page.state = holder.complete ? PageState::complete : PageState::partial;
            page.chunk_count = kChunks;
            page.words.resize((kChunks + 63) / 64);
            for (std::uint32_t c = 0; c < kChunks; ++c) {
                if (holder.complete || holder.held[c]) page.words[c / 64] |= 1ULL << (c % 64);
            }
            scheduler.on_page(action.holder, page, now);
            return;
        }
        REQUIRE((holder.complete || holder.held[action.chunk]));
        ++holder.sent;
        if (!scheduler.on_chunk_read(action.holder, action.chunk, ReadOutcome::ok, now)) return;
        const bool bad = random.unit() < holder.corrupt;
        scheduler.on_chunk_verdict(action.holder, action.chunk,
                                   bad ? Verdict::corrupt : Verdict::verified);
    }

    std::vector<WorldHolder> holders;
    PullScheduler scheduler;
    Random random;
    TimePoint now{};
    std::multimap<TimePoint, Action> answers;
    std::vector<Action> actions;
    std::vector<Action> silent;
    std::vector<HolderIndex> quarantined;
    std::uint32_t in_flight_most = 0;
    std::function<void()> on_tick;
};

TEST_CASE("one complete holder sends every chunk once") {
    World world({WorldHolder{}});
    REQUIRE(world.run());
    CHECK(world.holders[0].sent == kChunks);
}

TEST_CASE("equal holders share the work about equally") {
    World world(std::vector<WorldHolder>(4));
    REQUIRE(world.run());
    for (const WorldHolder& holder : world.holders) {
        CHECK(holder.sent > kChunks / 8);
        CHECK(holder.sent < kChunks / 2);
    }
}

TEST_CASE("a relay is asked for what it has, the source for the rest") {
    WorldHolder relay;
    relay.complete = false;
    for (std::uint32_t c = 0; c < kChunks / 2; ++c) relay.held[c] = true;
    World world({WorldHolder{}, relay});
    REQUIRE(world.run());
    CHECK(world.holders[1].sent > kChunks * 2 / 5);
    CHECK(world.holders[0].sent + world.holders[1].sent <= kChunks + 4);
}

TEST_CASE("what a relay gets later is found by reading its page again") {
    WorldHolder source;
    source.per_chunk = milliseconds(100);
    WorldHolder relay;
    relay.complete = false;
    World world({source, relay});
    world.on_tick = [&] {
        if (world.now >= TimePoint(milliseconds(50))) {
            world.holders[1].held.assign(kChunks, true);
        }
    };
    REQUIRE(world.run());
    CHECK(world.holders[1].sent > kChunks * 9 / 10);
}

TEST_CASE("a holder that dies loses nothing but its outstanding reads") {
    World world(std::vector<WorldHolder>(2));
    world.on_tick = [&] {
        if (world.scheduler.verified_count() > kChunks / 4) world.holders[0].alive = false;
    };
    REQUIRE(world.run());
    CHECK(world.scheduler.live_holders() == 1);
}

TEST_CASE("without any holder nothing is asked, and the lack is known") {
    World world(std::vector<WorldHolder>(1));
    world.scheduler.remove_holder(0);
    CHECK_FALSE(world.run(std::chrono::seconds(1)));
    CHECK(world.scheduler.live_holders() == 0);
    CHECK(world.scheduler.starving());
}

TEST_CASE("a slow holder's last chunks are taken over by a fast one") {
    WorldHolder slow;
    slow.per_chunk = std::chrono::seconds(5);
    World world({slow, WorldHolder{}});
    REQUIRE(world.run(std::chrono::seconds(4)));
    CHECK(world.holders[1].sent >= kChunks - 2);
}

TEST_CASE("a holder that went silent does not hold up the end") {
    WorldHolder silent;
    World world({silent, WorldHolder{}});
    world.on_tick = [&] {
        if (world.scheduler.verified_count() > kChunks / 4) world.holders[0].answers = false;
    };
    REQUIRE(world.run(std::chrono::seconds(4)));
    CHECK_FALSE(world.silent.empty());
}

TEST_CASE("one corrupt chunk is read again elsewhere, a second one quarantines the holder") {
    WorldHolder liar;
    liar.corrupt = 1;
    World world({liar, WorldHolder{}});
    REQUIRE(world.run());
    CHECK(world.quarantined == std::vector<HolderIndex>{0});
    CHECK(world.holders[1].sent == kChunks);
}

TEST_CASE("a rare bit flip from the only holder is read again from it") {
    World world({WorldHolder{}}, SchedulerOptions{.corrupt_max = 1000});
    world.holders[0].corrupt = 0.05;
    REQUIRE(world.run());
    CHECK(world.holders[0].sent > kChunks);
}

TEST_CASE("a rate cap is kept") {
    World world(std::vector<WorldHolder>(1));
    world.scheduler.remove_holder(0);
    world.holders.emplace_back();
    HolderTraits traits;
    traits.rate_max = 100 * kChunkBytes;  // 100 chunks a second
    world.scheduler.add_holder(traits, world.now);
    REQUIRE(world.run());
    const double rate = kChunks / seconds(world.now - TimePoint{});
    CHECK(rate > 90);
    CHECK(rate < 110);
}

TEST_CASE("a near holder that sent a chunk corrupt once does not keep it from a far one") {
    World world(std::vector<WorldHolder>(1));
    world.scheduler.remove_holder(0);
    world.holders.resize(3);
    world.scheduler.add_holder({.distance = 0}, world.now);
    world.scheduler.add_holder({.distance = 1}, world.now);
    world.holders[1].corrupt = 1;
    world.on_tick = [&] {
        if (world.holders[1].sent > 0) world.holders[1].corrupt = 0;
    };
    REQUIRE(world.run());
    CHECK(world.holders[2].sent > 0);
    CHECK(world.quarantined.empty());
}

TEST_CASE("a near holder at its rate cap does not keep a far one idle") {
    World world(std::vector<WorldHolder>(1));
    world.scheduler.remove_holder(0);
    world.holders.resize(3);
    world.scheduler.add_holder({.distance = 0, .rate_max = kChunkBytes / 10}, world.now);
    world.scheduler.add_holder({.distance = 1}, world.now);
    REQUIRE(world.run(std::chrono::seconds(2)));
    CHECK(world.holders[2].sent > kChunks * 9 / 10);
}

TEST_CASE("reads in flight stay within the number of buffers") {
    World world(std::vector<WorldHolder>(8), SchedulerOptions{.in_flight_max = 7});
    for (WorldHolder& holder : world.holders) holder.per_chunk = std::chrono::microseconds(10);
    REQUIRE(world.run());
    CHECK(world.in_flight_most <= 7);
}

TEST_CASE("holders of parts of the memory are asked for covered chunks only") {
    World world(std::vector<WorldHolder>(1));
    HolderTraits half;
    half.covered.assign((kChunks + 63) / 64, 0);
    half.covered[0] = ~0ULL;
    world.holders.emplace_back();
    world.scheduler.add_holder(half, world.now);
    world.scheduler.remove_holder(0);
    CHECK_FALSE(world.run(std::chrono::seconds(2)));
    CHECK(world.scheduler.verified_count() == 64);
    CHECK(world.scheduler.starving());
}

TEST_CASE("any seed and any deaths end with every chunk verified once") {
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        std::vector<WorldHolder> holders(2 + random.below(6));
        for (WorldHolder& holder : holders) {
            holder.complete = random.below(3) == 0;
            holder.per_chunk = std::chrono::microseconds(100 + random.below(20000));
            for (std::uint32_t c = 0; c < kChunks; ++c) holder.held[c] = random.below(2) == 0;
            holder.corrupt = random.below(4) == 0 ? 0.02 : 0;
        }
        holders[0].complete = true;
        holders[0].corrupt = 0;
        World world(holders, {}, seed);
        world.on_tick = [&] {
            const auto victim = random.below(world.holders.size() * 500);
            if (victim != 0 && victim < world.holders.size()) world.holders[victim].alive = false;
        };
        REQUIRE(world.run());
        CHECK(world.scheduler.verified_count() == kChunks);
        CHECK(world.scheduler.in_flight() <= 48);
    }
}

TEST_CASE("a million chunks are planned without a scan per chunk") {
    const auto wanted = all_chunks(1'000'000);
    PullScheduler scheduler(1'000'000, kChunkBytes, wanted, 1, {});
    scheduler.add_holder({}, TimePoint{});
    PageView page;
    page.state = PageState::complete;
    scheduler.on_page(0, page, TimePoint{});
    std::vector<Action> actions;
    std::uint64_t asked = 0;
    while (!scheduler.finished()) {
        actions.clear();
        scheduler.next_actions(TimePoint{}, actions);
        for (const Action& action : actions) {
            if (action.kind != Action::Kind::read_chunk) continue;
            ++asked;
            REQUIRE(scheduler.on_chunk_read(0, action.chunk, ReadOutcome::ok, TimePoint{}));
            scheduler.on_chunk_verdict(0, action.chunk, Verdict::verified);
        }
    }
    CHECK(asked == 1'000'000);
}

}  // namespace
}  // namespace weightcast::agent
