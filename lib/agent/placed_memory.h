// Memory that holds a part of a version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fabric/fabric.h"
#include "weightcast/result.h"

namespace weightcast::agent {

// A run of a version's address space in this process's memory, ready to be registered.
struct PlacedMemory {
    std::uint64_t place = 0;
    fabric::Memory memory;
};

// The one that holds a place, or the one before it; null if there is none. They are by ascending
// place.
const PlacedMemory* memory_at(std::span<const PlacedMemory> memory, std::uint64_t place);

// Copies bytes that lie in one of them, those of a file through its descriptor: it may have been
// truncated. `name` is what the bytes are called in errors. Errors: io.
Result<void> read_placed(const PlacedMemory& placed, std::uint64_t place,
                         std::span<std::byte> bytes, const std::string& name);

}  // namespace weightcast::agent
