// The topology of a fleet of equals.
#include <fmt/core.h>

#include "base/assert.h"
#include "plan/topology.h"

namespace weightcast::plan {

Topology make_fleet(const FleetOptions& options) {
    WEIGHTCAST_ASSERT(options.ranks_per_host > 0 && options.racks > 0);
    WEIGHTCAST_ASSERT(options.receivers < UINT32_MAX);
    Topology topology;
    const std::uint32_t ranks = options.receivers + 1;
    const std::uint32_t hosts = (ranks - 1) / options.ranks_per_host + 1;
    for (std::uint32_t i = 0; i < options.racks; ++i) {
        topology.racks.push_back({fmt::format("rack{}", i), options.uplink, options.uplink});
    }
    for (std::uint32_t i = 0; i < hosts; ++i) {
        // Racks differ by at most one host.
        const auto rack = static_cast<std::uint32_t>(std::uint64_t{i} * options.racks / hosts);
        topology.hosts.push_back({fmt::format("host{}", i), rack, options.local});
    }
    for (std::uint32_t i = 0; i < ranks; ++i) {
        topology.ranks.push_back({fmt::format("rank{}", i), i / options.ranks_per_host,
                                  options.port, options.port, i == 0});
    }
    return topology;
}

}  // namespace weightcast::plan
