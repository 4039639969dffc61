#include "registry/placement.h"

#include <algorithm>

namespace weightcast::registry {

Placement placement_of(const plan::Topology& topology) {
    Placement placement;
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
    return placement;
}

}  // namespace weightcast::registry
