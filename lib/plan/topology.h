// What a plan and a bound are made for: ranks on hosts in racks, the rates of their ports, and who
// has the bytes. Rates are bytes/s, each way apart; 0 is without limit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::plan {

struct RackSpec {
    std::string name;
    double up = 0;    // of its uplink, out of the rack
    double down = 0;  // into the rack
};

struct HostSpec {
    std::string name;
    std::uint32_t rack = 0;  // index
    double local = 0;        // between ranks of the host, in all
};

// A process with a port (a rail) of its own.
struct RankSpec {
    std::string name;
    std::uint32_t host = 0;  // index
    double up = 0;
    double down = 0;
    bool source = false;  // has everything at the start
};

struct Topology {
    std::vector<RackSpec> racks;
    std::vector<HostSpec> hosts;
    std::vector<RankSpec> ranks;
};

// A fleet of equals: the first rank of the first host is the source; `racks` racks of as many hosts
// as it takes, `ranks_per_host` ranks each, `receivers` + 1 ranks in all.
struct FleetOptions {
    std::uint32_t receivers = 1;
    std::uint32_t ranks_per_host = 1;
    std::uint32_t racks = 1;
    double port = 0;
    double uplink = 0;
    double local = 0;
};
Topology make_fleet(const FleetOptions& options);

// Reads a topology, described in docs/topology.md.
// Errors: invalid_input (naming the field, and the limit if one is hit; no source where one is
// needed).
Result<Topology> parse_topology(std::string_view json, bool needs_source = true);

}  // namespace weightcast::plan
