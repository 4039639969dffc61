// The least time that any way of moving the bytes needs, and the cut that sets it. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/topology.h"

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
    // "receiver port", "holder ports", "memory copy" or "nothing known"; of a fleet, see below.
    std::string limited_by;
};

// T >= max{S/d, S/sum(u), S/c}: the receiver's port, all holders' ports together, the memory.
Bound lower_bound(const BoundInput& input);

// Bytes move in k equal blocks. A block comes from one holder, which has all of it before it sends
// it on (store and forward), and occupies a port of each side for b/rate + alpha, b = S/k.
struct BlockCost {
    double seconds = 0;        // alpha
    std::uint64_t blocks = 0;  // k; 0: as many as make the bound least
};

// The least time until every receiver (a rank that is no source) has all S = `bytes`, for full
// duplex ports and a core without limit. Between ranks of a host bytes take its local links, L in
// all, and no port; between racks they take both uplinks, C. N receivers, n = N + sources.
// With one source and one rank a host, and u, d the rates of ports:
//
//   T >= max{ S/sum(u of sources), S/min d, N S/sum(u) }
//        (Kumar, Ross: Peer-assisted file distribution: the minimum distribution time, HotWeb 2006;
//        reached without racks if blocks are small, see also Mundinger, Weber, Weiss: Optimal
//        scheduling of peer-to-peer file dissemination, J. Scheduling 11, 2008)
//   T >= max{ S/C_in, S/sum(C_out of racks with sources), R S/sum(C_out) },
//        R: racks with receivers and no source. Each is the cut of a set of racks: what they need
//        from outside over what comes in, or goes out, in a second.
//   T >= k (S/(k B_s) + alpha) + (ceil(log2 n) - 1) (S/(k B) + alpha), with B_s the rate out of the
//        source and B the fastest out of any; for equal ports, (k - 1 + ceil(log2 n)) block times
//        (Bar-Noy, Kipnis, Schieber: Optimal multiple message broadcasting in telephone-like
//        communication systems, Discrete Applied Math. 100, 2000; Ganesan, Seshadri: On
//        cooperative content distribution and the price of barter, ICDCS 2005, who reach it for
//        equal ports and any n). The last block is first out of the source after k block times,
//        and those who have it at most double in the time of a block.
//
// With several ranks a host, what is needed from outside is a copy a host, and a host grows by all
// its ports at once; with p source ports the last block is first out after ceil(k/p) block times.
// Where alpha is not 0, a port moves b/(b/u + alpha) a second. With k = 0 the depth counts if
// alpha > 0.
//
// `limited_by`, X being a name: "source ports", "ports of the sources' hosts", "port into rank X",
// "links into X and N others of its host", "ports into host X", "all ports together", "ports of
// rack X", "uplink into rack X", "uplinks out of the racks with sources", "all uplinks together",
// "depth", or "nothing known"; "no receivers" if there are none. O(n log n); times log S to find k.
// REQUIRES: rates are not negative and indexes are in range, as parse_topology makes sure
Bound fleet_bound(const Topology& topology, std::uint64_t bytes, const BlockCost& cost = {});

}  // namespace weightcast::plan
