// Who is slow, late or dies, and what is told of a run.
#include "sim/simulation.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "model/layout.h"
#include "plan/bound.h"
#include "plan/forest.h"
#include "sim/world.h"

namespace weightcast::sim {
namespace {

constexpr double kEarliestJoin = 0.25;  // of the bound
constexpr double kLatestJoin = 0.75;
constexpr double kTimeMaxSeconds = 60;
constexpr double kTimeMaxBounds = 50;
constexpr double kStallPeriods = 4;  // of a stripe
constexpr std::uint32_t kRateBlocks = 16;
constexpr std::uint32_t kChunksMax = 1U << 24U;

std::int64_t to_ns(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

// Blocks larger than a chunk can be stand for many of them: what the scheduler takes for a stall
// must not be less than a block's way down the trees, and a rate needs several of them.
void fit_to_blocks(SimulationOptions& options, const plan::Bound& bound) {
    if (options.bytes / options.chunks <= std::uint64_t{1} << model::kChunkShiftMax) return;
    const auto stripes = static_cast<double>(options.registry.stripes_min);
    const double block = bound.seconds / options.chunks;
    const double depth = std::log(static_cast<double>(options.topology.ranks.size())) /
                         std::log(std::max(2.0, stripes));
    const auto at_least = [](Duration& time, double wanted) {
        time = std::max(time, Duration(to_ns(wanted)));
    };
    agent::SchedulerOptions& scheduler = options.scheduler;
    at_least(scheduler.stall_min, kStallPeriods * stripes * block);
    at_least(scheduler.stall_first, (depth + kStallPeriods) * stripes * block);
    at_least(scheduler.stall_max, 2 * kStallPeriods * stripes * block);
    options.rate_chunks_min = std::max(options.rate_chunks_min, kRateBlocks);
    at_least(scheduler.steal_after, kStallPeriods * stripes * block);
}

// Deals the fates out among the receivers.
std::vector<Receiver> choose_fates(const SimulationOptions& options, Random& random) {
    std::vector<Receiver> receivers;
    for (Rank rank = 0; rank < options.topology.ranks.size(); ++rank) {
        if (options.topology.ranks[rank].source) continue;
        Receiver receiver;
        receiver.rank = rank;
        receivers.push_back(receiver);
    }
    std::vector<std::uint32_t> order(receivers.size());
    for (std::uint32_t i = 0; i < order.size(); ++i) {
        order[i] = i;
        std::swap(order[i], order[random.below(i + 1)]);
    }
    std::size_t next = 0;
    const auto deal = [&](double fraction, Receiver::Kind kind) {
        auto count = std::llround(fraction * static_cast<double>(receivers.size()));
        for (; count > 0 && next < order.size(); --count) receivers[order[next++]].kind = kind;
    };
    deal(options.deaths, Receiver::Kind::dead);
    deal(options.joiners, Receiver::Kind::joiner);
    deal(options.stragglers, Receiver::Kind::straggler);
    return receivers;
}

void collect(const World& world, Outcome& outcome) {
    for (Receiver& receiver : outcome.receivers) {
        const Driver& driver = world.driver(receiver.rank);
        receiver.start = static_cast<double>(driver.start_ns()) / 1e9;
        receiver.planned = static_cast<double>(driver.planned_ns()) / 1e9;
        receiver.bytes = driver.bytes_read();
        outcome.twice += driver.twice();
        if (driver.finished()) {
            receiver.end = static_cast<double>(driver.end_ns()) / 1e9;
            outcome.seconds = std::max(outcome.seconds, receiver.end);
        } else if (receiver.kind != Receiver::Kind::dead) {
            ++outcome.unfinished;
        }
    }
    const Traffic& traffic = world.network().traffic();
    outcome.source_bytes = traffic.source_bytes;
    outcome.cross_rack_bytes = traffic.cross_rack_bytes;
    outcome.local_bytes = traffic.local_bytes;
    outcome.registry_requests = world.desk().requests();
    outcome.registry_requests_per_second_max = world.desk().requests_per_second_max();
    outcome.events = world.events();
}

}  // namespace

Result<void> check(const SimulationOptions& options) {
    const auto bad = [](std::string message) {
        return Error{Code::invalid_input, 0, std::move(message)};
    };
    if (options.chunks < 1 || options.chunks > kChunksMax || options.chunks > options.bytes) {
        return bad(fmt::format("{} bytes in {} blocks: there must be 1 to {} of them, with a byte",
                               options.bytes, options.chunks, kChunksMax));
    }
    if (options.registry.stripes_min < 1 || options.registry.stripes_max > plan::kStripesMax ||
        options.registry.stripes_min > options.registry.stripes_max) {
        return bad(fmt::format("there are {} to {} stripes, it must be 1 to {}",
                               options.registry.stripes_min, options.registry.stripes_max,
                               plan::kStripesMax));
    }
    const double fractions[] = {options.deaths, options.joiners, options.stragglers};
    for (const double fraction : fractions) {
        if (!(fraction >= 0 && fraction <= 1)) {
            return bad(fmt::format("{} is not a fraction of the receivers", fraction));
        }
    }
    if (options.deaths + options.joiners + options.stragglers > 1) {
        return bad("deaths, joiners and stragglers together are more than all receivers");
    }
    if (!(options.straggler_rate > 0 && options.straggler_rate <= 1)) {
        return bad(fmt::format("a straggler's rate of {} is not a fraction of a port's",
                               options.straggler_rate));
    }
    const auto& ranks = options.topology.ranks;
    const auto is_source = [](const plan::RankSpec& rank) { return rank.source; };
    if (std::all_of(ranks.begin(), ranks.end(), is_source)) return bad("there is no receiver");
    if (std::none_of(ranks.begin(), ranks.end(), is_source)) return bad("there is no source");
    return success();
}

Result<Outcome> simulate(const SimulationOptions& asked) {
    WEIGHTCAST_CHECK(check(asked));
    SimulationOptions options = asked;
    Random random(options.seed);
    Outcome outcome;
    const plan::Bound bound = plan::fleet_bound(options.topology, options.bytes,
                                                {seconds(options.chunk_cost), options.chunks});
    outcome.bound = bound.seconds;
    outcome.limited_by = bound.limited_by;
    outcome.receivers = choose_fates(options, random);
    std::vector<double> announced;
    for (const plan::RankSpec& rank : options.topology.ranks) announced.push_back(rank.up);
    for (const Receiver& receiver : outcome.receivers) {
        if (receiver.kind != Receiver::Kind::straggler) continue;
        plan::RankSpec& rank = options.topology.ranks[receiver.rank];
        rank.up *= options.straggler_rate;
        rank.down *= options.straggler_rate;
    }
    fit_to_blocks(options, bound);
    options.seed = random.next();
    WEIGHTCAST_TRY(const auto world, World::create(options, announced));
    for (const Receiver& receiver : outcome.receivers) {
        double start = 0;
        if (receiver.kind == Receiver::Kind::joiner) {
            start = bound.seconds * (kEarliestJoin + (kLatestJoin - kEarliestJoin) * random.unit());
        }
        world->start(receiver.rank, to_ns(start));
        if (receiver.kind != Receiver::Kind::dead) continue;
        world->kill(receiver.rank, to_ns(bound.seconds * options.death_at));
    }
    const double time_max =
        options.time_max > 0 ? options.time_max : kTimeMaxSeconds + kTimeMaxBounds * bound.seconds;
    world->run(to_ns(std::min(time_max, 1e9)));
    collect(*world, outcome);
    outcome.arrivals = world->take_arrivals();
    return outcome;
}

}  // namespace weightcast::sim
