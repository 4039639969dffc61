// The least time of a small fleet by trying everything: what bounds and plans are judged by.
#pragma once

#include <cstdint>

#include "plan/topology.h"

namespace weightcast::plan {

// A fleet in which time goes in slots, and rates are whole units a slot.
struct SmallFleet {
    Topology topology;
    std::uint32_t blocks = 1;
    std::uint32_t block_units = 1;
};

// Slots until every receiver has every block, by the best of all schedules in which a block comes
// from one holder that had all of it when a slot began, and may take several slots, share ports
// with others, and pause. For four ranks or so.
std::uint32_t least_slots(const SmallFleet& fleet);

}  // namespace weightcast::plan
