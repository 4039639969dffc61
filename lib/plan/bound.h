// The least time that any way of moving the bytes needs, and the cut that sets it. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weightcast::plan {

// Rates in bytes/s; 0: unknown or without limit.
struct BoundInput {
    std::uint64_t bytes = 0;   // that this receiver had to get
    double receiver_rate = 0;  // of its port
    double copy_rate = 0;      // of this host's memory, if bytes were copied within the host
    std::vector<double>
        holder_rates;  // of each holder's port or cap, as far as this reader's share
};

struct Bound {
    double seconds = 0;
    std::string limited_by;  // "receiver port", "holder ports", "memory copy" or "nothing known"
};

// T >= max{S/d, S/sum(u), S/c}: the receiver's port, all holders' ports together, the memory.
Bound lower_bound(const BoundInput& input);

}  // namespace weightcast::plan
