// Pictures of plans and of simulated pulls, as SVG.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/topology.h"
#include "sim/simulation.h"

namespace weightcast::plan_tool {

inline constexpr std::uint32_t kNoParent = UINT32_MAX;

// Who reads which stripe from whom.
struct Trees {
    std::vector<std::vector<std::uint32_t>> parents;  // by stripe and rank; kNoParent: a source
    std::vector<std::vector<std::uint32_t>> depths;   // by stripe and rank
    std::uint32_t depth_max(std::uint32_t stripe) const;
};

// The plan that a registry makes if all receivers ask for it together.
Trees make_trees(const plan::Topology& topology, const registry::StateOptions& options);

std::string draw_trees(const plan::Topology& topology, const Trees& trees);
// A row for each receiver, time from left to right, and a box where a part arrived, coloured by
// the part. Of large fleets every so-many-th receiver is drawn.
std::string draw_time_space(const sim::SimulationOptions& options, const sim::Outcome& outcome);

}  // namespace weightcast::plan_tool
