// p2p-plan: how long a fleet's pull takes at least, would take, and who reads from whom.
#include <fmt/core.h>

#include <fstream>
#include <string>

#include "tools/plan_draw.h"
#include "tools/plan_options.h"
#include "tools/plan_report.h"

namespace weightcast::plan_tool {
namespace {

Result<void> write(const std::string& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (file) return success();
    return Error{Code::io, 0, fmt::format("cannot write {}", path)};
}

Result<void> show(const Options& options) {
    const sim::SimulationOptions& simulation = options.simulation;
    const Trees trees = make_trees(simulation.topology, simulation.registry);
    print_trees(options, trees);
    if (!options.svg.empty()) {
        WEIGHTCAST_CHECK(write(options.svg, draw_trees(simulation.topology, trees)));
    }
    if (options.time_space.empty()) return success();
    WEIGHTCAST_TRY(const auto outcome, sim::simulate(simulation));
    print_outcome(options, outcome);
    return write(options.time_space, draw_time_space(simulation, outcome));
}

Result<void> run(const Options& options) {
    if (options.show) return show(options);
    WEIGHTCAST_TRY(const auto outcome, sim::simulate(options.simulation));
    print_outcome(options, outcome);
    if (outcome.unfinished == 0) return success();
    return Error{Code::timed_out, 0,
                 fmt::format("{} receivers did not get everything", outcome.unfinished)};
}

}  // namespace
}  // namespace weightcast::plan_tool

int main(int argc, char** argv) {
    using namespace weightcast;
    return cli::run_main(plan_tool::kProgram, argc, argv, plan_tool::parse, plan_tool::run);
}
