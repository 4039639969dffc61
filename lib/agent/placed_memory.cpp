#include "agent/placed_memory.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/file.h"

namespace weightcast::agent {

const PlacedMemory* memory_at(std::span<const PlacedMemory> memory, std::uint64_t place) {
    const auto next = std::ranges::upper_bound(memory, place, {}, &PlacedMemory::place);
    return next == memory.begin() ? nullptr : &*(next - 1);
}

Result<void> read_placed(const PlacedMemory& placed, std::uint64_t place,
                         std::span<std::byte> bytes, const std::string& name) {
    const std::uint64_t offset = place - placed.place;
    WEIGHTCAST_ASSERT(offset + bytes.size() <= placed.memory.bytes.size());
    if (placed.memory.fd_may_shrink) {
        return read_exactly(placed.memory.fd, bytes, placed.memory.fd_offset + offset, name);
    }
    const std::byte* const from = placed.memory.bytes.data() + offset;
    if (from != bytes.data()) std::memcpy(bytes.data(), from, bytes.size());  // else it is there
    return success();
}

}  // namespace weightcast::agent
