// Reads a peer's test memory through a fabric, checks every byte, and measures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fabric/fabric.h"
#include "transport/doctor/peer_wire.h"
#include "weightcast/result.h"

namespace weightcast::transport::doctor {

// The bytes that a side with this seed lets the other read.
void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed);

// Takes about a second, and some more where reads fail only at their deadlines. `stop_fd` ends it
// when it becomes readable; -1: nothing does.
ReadReport try_read(fabric::Fabric& fabric, const fabric::PeerAddress& peer,
                    std::span<const std::byte> key, std::uint64_t seed, int stop_fd);

}  // namespace weightcast::transport::doctor
