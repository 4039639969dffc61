// Where peers are and what their ports and racks can carry, as far as somebody knows it better than
// the peers themselves.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "plan/topology.h"
#include "weightcast/result.h"

namespace weightcast::registry {

struct Placement {
    struct Host {
        std::string rack;
        std::uint64_t port_rate = 0;  // bytes/s of each rank's port, out; 0: as the peer tells
    };
    std::string rack_label = "rack";              // label of a peer that names its rack
    std::unordered_map<std::string, Host> hosts;  // by host name; they count more than labels
    double rack_rate = 0;  // bytes/s of the slowest uplink; 0: that of one reader
};

// Adds the hosts of a topology; its ranks tell only their ports' rates.
void add_topology(const plan::Topology& topology, Placement& placement);
// The same from a file (docs/topology.md), which need not name a source.
// Errors: io (the file), invalid_input (what it says).
Result<void> read_placement(const std::string& path, Placement& placement);

}  // namespace weightcast::registry
