// What the fabrics of one MemoryWorld share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "transport/memory/memory_fabric.h"

namespace weightcast::transport {

struct MemoryWorld::State {
    struct Peer {
        fabric::Incarnation incarnation{};
        bool alive = true;
        bool paused = false;
        MemoryFaults faults;
        std::uint64_t reads = 0;
        std::uint64_t bytes_served = 0;
    };
    struct Served {
        std::string owner;  // address
        fabric::Memory memory;
    };

    State(std::uint64_t seed, const Clock* world_clock) : random(seed), clock(world_clock) {}

    Random random;
    const Clock* clock;
    std::uint64_t next_address = 1;
    std::map<std::string, std::shared_ptr<Peer>> peers;  // a fabric keeps its own peer's record
    std::map<fabric::RegionKey, Served> regions;

    enum class Gate { closed, open, denied };
    // Of a read from this peer; open if it has none, denied if the read could never be answered.
    Gate gate(const std::string& owner, const fabric::Read& read) const;
    // Copies from the region to `local`, as the peer's faults are.
    fabric::ReadStatus copy(const std::string& owner, const fabric::Read& read);
    // The region of this key if it is the owner's, or null.
    const fabric::Memory* find(const std::string& owner, std::span<const std::byte> key) const;
    // A key that no other region has.
    fabric::RegionKey new_key();
};

}  // namespace weightcast::transport
