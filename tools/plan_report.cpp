#include "tools/plan_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "plan/bound.h"
#include "tools/human.h"

namespace weightcast::plan_tool {
namespace {

using Kind = sim::Receiver::Kind;

constexpr std::array<std::pair<Kind, const char*>, 4> kKinds{{{Kind::plain, "plain"},
                                                              {Kind::joiner, "joiners"},
                                                              {Kind::straggler, "stragglers"},
                                                              {Kind::dead, "dead before the end"}}};

double part(std::uint64_t bytes, std::uint64_t whole) {
    return static_cast<double>(bytes) / static_cast<double>(whole);
}

std::string human_time(double seconds) {
    if (seconds >= 10) return fmt::format("{:.2f} s", seconds);
    if (seconds >= 0.1) return fmt::format("{:.4f} s", seconds);
    return fmt::format("{:.3f} ms", seconds * 1000);
}

double requests_per_second(const sim::Outcome& outcome) {
    if (outcome.seconds <= 0) return 0;
    return static_cast<double>(outcome.registry_requests) / outcome.seconds;
}

double cross_rack(const Options& options, const sim::Outcome& outcome) {
    return part(outcome.cross_rack_bytes, options.simulation.bytes) /
           static_cast<double>(options.simulation.topology.racks.size());
}

boost::json::object object_of(const sim::Distribution& times, double bound) {
    return {{"count", times.count},
            {"min_s", times.min},
            {"median_s", times.median},
            {"p90_s", times.p90},
            {"p99_s", times.p99},
            {"max_s", times.max},
            {"ratio", bound > 0 ? times.max / bound : 0}};
}

void print(const boost::json::object& object) {
    static_cast<void>(cli::print_line(boost::json::serialize(object)));
}

void print_json(const Options& options, const sim::Outcome& outcome) {
    boost::json::object object{
        {"event", "simulation"},
        {"receivers", outcome.receivers.size()},
        {"blocks", options.simulation.chunks},
        {"bound_s", outcome.bound},
        {"limited_by", outcome.limited_by},
        {"seconds", outcome.seconds},
        {"unfinished", outcome.unfinished},
        {"source_copies", part(outcome.source_bytes, options.simulation.bytes)},
        {"cross_rack_copies", cross_rack(options, outcome)},
        {"twice", outcome.twice},
        {"registry_requests", outcome.registry_requests},
        {"registry_requests_per_s", requests_per_second(outcome)},
        {"registry_requests_per_s_max", outcome.registry_requests_per_second_max},
        {"events", outcome.events}};
    boost::json::object times;
    boost::json::object from_plan;
    for (const auto& [kind, name] : kKinds) {
        if (kind == Kind::dead || outcome.times(kind).count == 0) continue;
        times[name] = object_of(outcome.times(kind), outcome.bound);
        from_plan[name] = object_of(outcome.times_from_plan(kind), outcome.bound);
    }
    object["times"] = std::move(times);
    object["times_from_plan"] = std::move(from_plan);
    print(object);
}

void print_times(const char* name, const sim::Distribution& times, double bound) {
    if (times.count == 0) return;
    fmt::print("{:<20} {:>6}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:.4f}\n", name, times.count,
               human_time(times.min), human_time(times.median), human_time(times.p90),
               human_time(times.p99), human_time(times.max), bound > 0 ? times.max / bound : 0);
}

}  // namespace

void print_outcome(const Options& options, const sim::Outcome& outcome) {
    if (options.json) return print_json(options, outcome);
    fmt::print("lower bound {} ({}), {} blocks of {}\n", human_time(outcome.bound),
               outcome.limited_by, options.simulation.chunks,
               human_bytes(options.simulation.bytes / options.simulation.chunks));
    fmt::print("{:<20} {:>6}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  max/bound\n", "receivers", "",
               "min", "median", "90 %", "99 %", "max");
    for (const auto& [kind, name] : kKinds) {
        print_times(name, outcome.times(kind), outcome.bound);
        if (kind == Kind::plain) {
            print_times("  since their plan", outcome.times_from_plan(kind), outcome.bound);
        }
    }
    if (outcome.unfinished > 0) fmt::print("{} did not get everything\n", outcome.unfinished);
    fmt::print("sources sent {:.3f} copies; into each rack came {:.3f}; {} blocks came twice\n",
               part(outcome.source_bytes, options.simulation.bytes), cross_rack(options, outcome),
               outcome.twice);
    fmt::print("registry: {} requests, {:.0f} a second, {} in the busiest\n",
               outcome.registry_requests, requests_per_second(outcome),
               outcome.registry_requests_per_second_max);
}

void print_trees(const Options& options, const Trees& trees) {
    const sim::SimulationOptions& simulation = options.simulation;
    const auto& ranks = simulation.topology.ranks;
    const plan::Bound bound = plan::fleet_bound(
        simulation.topology, simulation.bytes, {seconds(simulation.chunk_cost), simulation.chunks});
    if (!options.json) {
        fmt::print("{} ranks; lower bound {} ({})\n", ranks.size(), human_time(bound.seconds),
                   bound.limited_by);
    }
    for (std::uint32_t stripe = 0; stripe < trees.parents.size(); ++stripe) {
        if (!options.json) {
            fmt::print("stripe {} of {}: depth {}\n", stripe, trees.parents.size(),
                       trees.depth_max(stripe));
        }
        for (std::uint32_t rank = 0; rank < ranks.size(); ++rank) {
            const std::uint32_t parent = trees.parents[stripe][rank];
            if (parent == kNoParent) continue;
            const std::uint32_t depth = trees.depths[stripe][rank];
            if (options.json) {
                print({{"event", "edge"},
                       {"stripe", stripe},
                       {"rank", ranks[rank].name},
                       {"parent", ranks[parent].name},
                       {"depth", depth}});
            } else {
                fmt::print("  {} from {}, depth {}\n", ranks[rank].name, ranks[parent].name, depth);
            }
        }
    }
    if (!options.json) return;
    print({{"event", "plan"},
           {"stripes", trees.parents.size()},
           {"bound_s", bound.seconds},
           {"limited_by", bound.limited_by}});
}

}  // namespace weightcast::plan_tool
