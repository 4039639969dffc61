// A deterministic fabric inside one process, for tests and simulation: several peers in one world,
// completions in seeded order and delay, faults on demand. No threads; a world and everything in
// it is thread-bound.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "fabric/fabric.h"

namespace weightcast::transport {

// What goes wrong when others read from a peer.
struct MemoryFaults {
    std::uint32_t delay_polls_min = 0;  // of the reader, before a read completes
    std::uint32_t delay_polls_max = 3;  // inclusive; each read draws its own
    double loss = 0;                    // probability that a read is never answered
    double corruption = 0;              // probability that one bit of a read is flipped
    std::uint64_t corrupt_read = 0;     // the n-th read, from 1, has one bit flipped; 0: none
};

class MemoryWorld {
  public:
    // Deadlines run on `clock`, borrowed; without one, each poll() of a fabric is a millisecond
    // to it.
    explicit MemoryWorld(std::uint64_t seed, const Clock* clock = nullptr);
    ~MemoryWorld();

    // A new peer at `address`, or at a fresh one if empty. The fabric may outlive the world.
    // An address can be taken again once its peer has been killed or destroyed.
    // Errors: invalid_input (no memory address), conflict (in use).
    Result<std::unique_ptr<fabric::Fabric>> open(const fabric::FabricOptions& options,
                                                 const std::string& address = {});

    // Faults of the peer at this address, to change at any time. REQUIRES: it was opened
    MemoryFaults& faults(const std::string& address);
    // The peer is gone without a word: links to it break, its own fabric does nothing any more.
    void kill(const std::string& address);
    // A paused peer answers nothing.
    void pause(const std::string& address);
    void resume(const std::string& address);
    // All keys that the peer has given out name nothing any more.
    void expire_keys(const std::string& address);

    struct State;

  private:
    std::shared_ptr<State> state_;  // shared with the fabrics and regions of this world
};

}  // namespace weightcast::transport
