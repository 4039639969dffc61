#include <cstring>

#include "agent/destination.h"
#include "base/assert.h"

namespace weightcast::agent {

Result<std::unique_ptr<MemoryDestination>> MemoryDestination::create(
    std::shared_ptr<const model::Manifest> manifest) {
    auto destination = std::make_unique<MemoryDestination>();
    const std::uint64_t bytes = manifest->layout.space_bytes();
    if (bytes > 0) {
        WEIGHTCAST_TRY(destination->arena_, SharedMemory::create("weightcast-pull", bytes));
    }
    destination->manifest_ = std::move(manifest);
    return destination;
}

std::span<std::byte> MemoryDestination::in_place(std::uint32_t chunk) {
    const model::Layout& layout = manifest_->layout;
    return arena_.pages.span().subspan(std::size_t{chunk} * layout.chunk_bytes(),
                                       layout.chunk_range(chunk).bytes);
}

Result<void> MemoryDestination::store(std::uint32_t chunk, std::span<const std::byte> bytes) {
    const std::span<std::byte> place = in_place(chunk);
    WEIGHTCAST_ASSERT(place.size() == bytes.size());
    if (place.data() != bytes.data()) std::memcpy(place.data(), bytes.data(), bytes.size());
    return success();
}

std::vector<PlacedMemory> MemoryDestination::memory() const {
    if (arena_.pages.size() == 0) return {};
    return {{0, {arena_.pages.span(), arena_.fd.get(), 0, false}}};
}

std::span<const std::byte> MemoryDestination::view(std::uint32_t artifact, std::uint64_t offset,
                                                   std::uint64_t bytes) const {
    return arena_.pages.span().subspan(manifest_->layout.place_of(artifact) + offset, bytes);
}

}  // namespace weightcast::agent
