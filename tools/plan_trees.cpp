// Plans as registry/state_plan.cpp makes them.
#include <algorithm>

#include "plan/forest.h"
#include "tools/plan_draw.h"

namespace weightcast::plan_tool {
namespace {

plan::Member member_of(const plan::Topology& topology, std::uint32_t rank) {
    const plan::RankSpec& spec = topology.ranks[rank];
    const plan::HostSpec& host = topology.hosts[spec.host];
    plan::Member member;
    member.id = rank + 1;
    member.host = host.name;
    member.rack = topology.racks[host.rack].name;
    member.rate = spec.up;
    member.complete = spec.source;
    return member;
}

}  // namespace

std::uint32_t Trees::depth_max(std::uint32_t stripe) const {
    return *std::max_element(depths[stripe].begin(), depths[stripe].end());
}

Trees make_trees(const plan::Topology& topology, const registry::StateOptions& options) {
    std::vector<plan::Member> sources;
    std::vector<plan::Member> receivers;
    for (std::uint32_t rank = 0; rank < topology.ranks.size(); ++rank) {
        const plan::Member member = member_of(topology, rank);
        (member.complete ? sources : receivers).push_back(member);
    }
    const double port_rate = receivers.empty() ? 0 : receivers.front().rate;
    const std::uint32_t ranks_per_host =
        plan::Forest(plan::ForestOptions()).ranks_per_host(receivers);
    plan::Forest forest(plan::options_for(port_rate, sources, ranks_per_host, options.stripes_min,
                                          options.stripes_max));
    forest.join(sources);
    forest.join(receivers);
    Trees trees;
    for (std::uint32_t stripe = 0; stripe < forest.stripes(); ++stripe) {
        auto& parents = trees.parents.emplace_back();
        auto& depths = trees.depths.emplace_back();
        for (std::uint32_t rank = 0; rank < topology.ranks.size(); ++rank) {
            const plan::MemberId parent = forest.parent(rank + 1, stripe);
            parents.push_back(parent == plan::kNobody ? kNoParent
                                                      : static_cast<std::uint32_t>(parent - 1));
            depths.push_back(forest.depth(rank + 1, stripe));
        }
    }
    return trees;
}

}  // namespace weightcast::plan_tool
