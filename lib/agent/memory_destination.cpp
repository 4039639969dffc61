#include <algorithm>
#include <cstring>

#include "agent/destination.h"
#include "agent/reuse.h"
#include "base/assert.h"

namespace weightcast::agent {

Result<std::unique_ptr<MemoryDestination>> MemoryDestination::create_in(
    std::shared_ptr<SharedMemory> arena, std::span<const std::optional<model::Digest>> there,
    std::shared_ptr<const model::Manifest> manifest) {
    auto destination = std::make_unique<MemoryDestination>();
    const std::uint64_t bytes = manifest->layout.space_bytes();
    if (!arena || arena->pages.size() < bytes) {
        arena = std::make_shared<SharedMemory>();
        there = {};
        if (bytes > 0) {
            WEIGHTCAST_TRY(*arena, SharedMemory::create("weightcast-pull", bytes));
        }
    }
    destination->arena_ = std::move(arena);
    destination->manifest_ = std::move(manifest);
    destination->find_present(there);
    return destination;
}

void MemoryDestination::find_present(std::span<const std::optional<model::Digest>> there) {
    const auto& digests = manifest_->chunk_digests;
    const std::size_t count = std::min(there.size(), digests.size());
    for (std::uint32_t chunk = 0; chunk < count; ++chunk) {
        if (there[chunk] == digests[chunk]) present_.push_back(chunk);
    }
}

std::uint64_t MemoryDestination::bytes_shared() const {
    return bytes_of(manifest_->layout, present_);
}

std::span<std::byte> MemoryDestination::in_place(std::uint32_t chunk) {
    const model::Layout& layout = manifest_->layout;
    return arena_->pages.span().subspan(std::size_t{chunk} * layout.chunk_bytes(),
                                        layout.chunk_range(chunk).bytes);
}

Result<void> MemoryDestination::store(std::uint32_t chunk, std::span<const std::byte> bytes) {
    const std::span<std::byte> place = in_place(chunk);
    WEIGHTCAST_ASSERT(place.size() == bytes.size());
    if (place.data() != bytes.data()) std::memcpy(place.data(), bytes.data(), bytes.size());
    return success();
}

std::vector<PlacedMemory> MemoryDestination::memory() const {
    const std::uint64_t bytes = manifest_->layout.space_bytes();  // the arena may be larger
    if (bytes == 0) return {};
    return {{0, {arena_->pages.span().first(bytes), arena_->fd.get(), 0, false}}};
}

std::span<const std::byte> MemoryDestination::view(std::uint32_t artifact, std::uint64_t offset,
                                                   std::uint64_t bytes) const {
    return arena_->pages.span().subspan(manifest_->layout.place_of(artifact) + offset, bytes);
}

}  // namespace weightcast::agent
