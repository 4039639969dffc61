#include "registry/placement.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace weightcast::registry {

void add_topology(const plan::Topology& topology, Placement& placement) {
    for (const plan::HostSpec& host : topology.hosts) {
        placement.hosts[host.name].rack = topology.racks[host.rack].name;
    }
    for (const plan::RankSpec& rank : topology.ranks) {
        placement.hosts[topology.hosts[rank.host].name].port_rate =
            static_cast<std::uint64_t>(rank.up);
    }
    for (const plan::RackSpec& rack : topology.racks) {
        for (const double rate : {rack.up, rack.down}) {
            if (rate <= 0) continue;
            placement.rack_rate =
                placement.rack_rate > 0 ? std::min(placement.rack_rate, rate) : rate;
        }
    }
}

Result<void> read_placement(const std::string& path, Placement& placement) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) return Error{Code::io, 0, fmt::format("cannot read the topology {}", path)};
    WEIGHTCAST_TRY(const plan::Topology topology, plan::parse_topology(text.str(), false));
    add_topology(topology, placement);
    return success();
}

}  // namespace weightcast::registry
