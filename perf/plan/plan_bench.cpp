// plan-bench: how long it takes to plan who reads from whom for a large fleet that starts at once,
// to take in one joiner or let one leave, and to choose and bound a plan. Prints a table; times are
// of one thread, the median and the most of all tries.
//
// plan-bench [RUNS]
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "base/random.h"
#include "plan/bound.h"
#include "plan/cost.h"
#include "plan/forest.h"
#include "plan/topology.h"

namespace {

using namespace weightcast;
using namespace weightcast::plan;

constexpr std::uint32_t kChanges = 1000;
constexpr std::uint64_t kBytes = 8'000'000'000;
constexpr double kPort = 48e9;
constexpr double kAlpha = 20e-6;

double ms_of(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    return took.count();
}

void print_row(const char* what, std::vector<double> ms) {
    std::sort(ms.begin(), ms.end());
    fmt::print("| {} | {:.3f} | {:.3f} |\n", what, ms[ms.size() / 2], ms.back());
}

Topology fleet() {
    FleetOptions options;
    options.receivers = 4096;
    options.ranks_per_host = 16;
    options.racks = 32;
    options.port = kPort;
    options.uplink = kPort * 32;  // 4:1
    return make_fleet(options);
}

std::vector<Member> members_of(const Topology& topology, bool racks) {
    std::vector<Member> members;
    for (const RankSpec& rank : topology.ranks) {
        Member member;
        member.id = members.size() + 1;
        member.complete = rank.source;
        if (racks) {
            const HostSpec& host = topology.hosts[rank.host];
            member.host = host.name;
            member.rack = topology.racks[host.rack].name;
            member.rate = rank.up;
        }
        members.push_back(member);
    }
    return members;
}

// Plans all at once, then lets random receivers go and others come in their place.
void bench_forest(const char* name, bool racks, std::uint32_t ranks_per_host, std::uint32_t runs) {
    const Topology topology = fleet();
    const std::vector<Member> members = members_of(topology, racks);
    std::vector<double> plans;
    std::vector<double> leaves;
    std::vector<double> joins;
    for (std::uint32_t run = 0; run < runs; ++run) {
        ForestOptions options;
        options.stripes = 2 * ranks_per_host;
        options.ranks_per_host = ranks_per_host;
        options.port_rate = racks ? kPort : 0;
        options.rack_rate = racks ? topology.racks[0].up : 0;
        Forest forest(options);
        plans.push_back(ms_of([&] { forest.join(members); }));
        Random random(run);
        for (std::uint32_t i = 0; i < kChanges; ++i) {
            const MemberId gone = 2 + random.below(members.size() - 1);
            if (!forest.contains(gone)) continue;
            leaves.push_back(ms_of([&] { forest.leave(gone); }));
            Member joiner = members[gone - 1];
            joiner.id = members.size() + 1 + i;
            joins.push_back(ms_of([&] { forest.join(std::vector{joiner}); }));
        }
    }
    print_row(fmt::format("plan 4,096 receivers, {}, {} stripes", name, 2 * ranks_per_host).c_str(),
              plans);
    print_row("one of them leaves", leaves);
    print_row("one more joins", joins);
}

}  // namespace

int main(int argc, char** argv) {
    const int asked = argc > 1 ? std::atoi(argv[1]) : 5;
    const auto runs = static_cast<std::uint32_t>(std::clamp(asked, 1, 1000));
    fmt::print("| what | median ms | most ms |\n|---|---|---|\n");
    bench_forest("one rack", false, 1, runs);
    bench_forest("32 racks, 257 hosts", true, 1, runs);
    bench_forest("32 racks, 257 hosts that share the import", true, 16, runs);
    const Topology topology = fleet();
    std::vector<double> bounds;
    std::vector<double> choices;
    Bound bound;
    PlanChoice choice;
    for (std::uint32_t run = 0; run < runs; ++run) {
        bounds.push_back(ms_of([&] { bound = fleet_bound(topology, kBytes, {kAlpha, 0}); }));
        choices.push_back(ms_of([&] { choice = choose_plan(4097, kBytes, kPort, kAlpha); }));
    }
    print_row("bound of that fleet, the best number of blocks", bounds);
    print_row("choose a plan for it", choices);
    fmt::print("\nBound {:.1f} ms by {}; without racks, {} in {} blocks takes {:.1f} ms.\n",
               bound.seconds * 1e3, bound.limited_by, to_string(choice.shape), choice.blocks,
               choice.seconds * 1e3);
    return 0;
}
