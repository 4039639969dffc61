// What a network interface's driver counts: the statistics that `ethtool -S` shows. Reentrant.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weightcast::transport::doctor {

struct Counter {
    std::string name;  // as the driver spells it, e.g. "rx_prio3_pause"
    std::uint64_t value = 0;
};

// In the driver's order; empty where there is no such interface, or its driver counts nothing.
std::vector<Counter> read_counters(const std::string& interface);

}  // namespace weightcast::transport::doctor
