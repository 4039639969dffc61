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

// Not more than the fastest source sends.
double reader_rate(const plan::Topology& topology, const std::vector<plan::Member>& receivers,
                   const std::vector<plan::Member>& sources) {
    if (receivers.empty()) return 0;
    const double rate = topology.ranks[receivers.front().id - 1].up;
    double most = 0;
    for (const plan::Member& source : sources) {
        if (source.rate == 0) return rate;
        most = std::max(most, source.rate);
    }
    return rate == 0 ? most : std::min(rate, most);
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
    plan::ForestOptions forest_options;
    forest_options.reader_rate = reader_rate(topology, receivers, sources);
    forest_options.stripes = std::clamp(static_cast<std::uint32_t>(sources.size()),
                                        options.stripes_min, options.stripes_max);
    plan::Forest forest(forest_options);
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
