// What p2p-plan is asked for.
#pragma once

#include <optional>
#include <string>

#include "sim/simulation.h"
#include "tools/cli.h"

namespace weightcast::plan_tool {

inline constexpr cli::Program kProgram{
    "p2p-plan", "simulates pulls by whole fleets, and shows the plans by which they read",
    "simulate|show --bytes SIZE (--receivers N [--port RATE] | --topology FILE) [OPTIONS]"};

struct Options {
    bool show = false;  // else simulate
    sim::SimulationOptions simulation;
    bool json = false;
    std::string svg;
    std::string time_space;
};

// Errors: invalid_input; those of reading the topology's file.
Result<std::optional<Options>> parse(int argc, const char* const* argv);

}  // namespace weightcast::plan_tool
