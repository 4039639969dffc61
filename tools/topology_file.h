// Topology files (docs/topology.md) on the command line.
#pragma once

#include <string>

#include "plan/topology.h"

namespace weightcast::cli {

// Errors: io (the file), invalid_input (what it says).
Result<plan::Topology> read_topology(const std::string& path, bool needs_source);

}  // namespace weightcast::cli
