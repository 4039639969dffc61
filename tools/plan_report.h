// What p2p-plan prints.
#pragma once

#include "tools/plan_draw.h"
#include "tools/plan_options.h"

namespace weightcast::plan_tool {

void print_outcome(const Options& options, const sim::Outcome& outcome);
void print_trees(const Options& options, const Trees& trees);

}  // namespace weightcast::plan_tool
