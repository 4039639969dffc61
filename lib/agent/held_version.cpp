#include "agent/held_version.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/hex.h"
#include "base/log.h"

namespace weightcast::agent {

Result<std::shared_ptr<HeldVersion>> HeldVersion::create(IoThread& io, Material material,
                                                         const fabric::Incarnation& incarnation,
                                                         std::uint64_t generation) {
    std::shared_ptr<HeldVersion> held(new HeldVersion(io));
    held->material_ = std::move(material);
    const NamedManifest& named = held->material_.named;
    WEIGHTCAST_TRY(held->page_, AvailabilityPage::create(incarnation, generation,
                                                         named.manifest->layout.chunk_count()));
    WEIGHTCAST_TRY(held->manifest_memory_,
                   SharedMemory::create("weightcast-manifest", named.encoded.size()));
    std::memcpy(held->manifest_memory_.pages.data(), named.encoded.data(), named.encoded.size());
    return held;
}

HeldVersion::~HeldVersion() { withdraw(); }

void HeldVersion::withdraw() {
    if (!withdrawn_.exchange(true)) page_.withdraw();
    const std::lock_guard lock(mutex_);
    served_.clear();
    registration_.reset();
}

Result<HeldVersion::Served> HeldVersion::serve_with(fabric::Fabric& fabric) {
    const auto access = fabric::Access::remote_read;
    Served served;
    const SharedMemory& page = page_.memory();
    WEIGHTCAST_TRY(served.page,
                   fabric.register_memory({page.pages.span(), page.fd.get(), 0, false}, access));
    const SharedMemory& manifest = manifest_memory_;
    WEIGHTCAST_TRY(
        served.manifest,
        fabric.register_memory({manifest.pages.span(), manifest.fd.get(), 0, false}, access));
    return served;
}

Result<void> HeldVersion::register_all() {
    for (std::uint32_t i = 0; i < material_.memory.size(); ++i) {
        const PlacedMemory& placed = material_.memory[i];
        static_part_.extents.push_back({placed.place, placed.memory.bytes.size(), i, 0});
    }
    std::shared_ptr<Registration> registration = std::move(material_.registration);
    if (!registration) {
        WEIGHTCAST_TRY(registration, Registration::make(io_, material_.memory));
        registration_seconds_ = registration->seconds();
    }
    Error last{Code::unavailable, 0, "no transport is open"};
    std::vector<Served> all;
    for (const Registration::OfFabric& registered : registration->fabrics()) {
        auto served = serve_with(*registered.fabric);
        if (!served) {
            last = served.error();
            log(LogLevel::warning, "not serving over {}: {}", registered.fabric->name(),
                last.message);
            continue;
        }
        registry::FabricKeys keys;
        for (const auto& region : registered.regions) keys.regions.push_back(region->key());
        keys.page = served.value().page->key();
        keys.manifest = served.value().manifest->key();
        static_part_.keys[registered.fabric->name()] = std::move(keys);
        all.push_back(std::move(served).value());
    }
    if (all.empty()) return last;
    {
        const std::lock_guard lock(mutex_);
        // Withdrawn in the meantime: all of it goes at once.
        if (!withdrawn_) {
            served_ = std::move(all);
            registration_ = std::move(registration);
        }
    }
    static_part_.model = manifest().model;
    static_part_.version = manifest().version;
    static_part_.page_bytes = page_.memory().pages.size();
    return success();
}

void HeldVersion::set_chunk(std::uint32_t chunk) {
    page_.set(chunk);
    for (const auto& fabric : io_.fabrics()) fabric->gates_opened();
}

Result<void> HeldVersion::read(std::uint32_t chunk, std::span<std::byte> bytes) const {
    WEIGHTCAST_ASSERT(pulled());
    const model::Layout& layout = manifest().layout;
    const std::uint64_t place = std::uint64_t{chunk} << layout.options().chunk_shift;
    const PlacedMemory* const placed = memory_at(material_.memory, place);
    if (!page_.has(chunk) || placed == nullptr) {
        return Error{Code::not_found, 0, fmt::format("chunk {} is not held", chunk)};
    }
    return read_placed(*placed, place, bytes,
                       manifest().artifacts[layout.chunk_range(chunk).artifact].path);
}

int HeldVersion::file_of(std::uint32_t artifact) const {
    const PlacedMemory* const placed =
        memory_at(material_.memory, manifest().layout.place_of(artifact));
    const bool file = placed != nullptr && placed->memory.fd_may_shrink &&
                      placed->place == manifest().layout.place_of(artifact) &&
                      placed->memory.fd_offset == 0;
    return file ? placed->memory.fd : -1;
}

Result<void> HeldVersion::check_source() const {
    return material_.check_source ? material_.check_source() : success();
}

std::uint64_t HeldVersion::bytes_held() const {
    const model::Layout& layout = manifest().layout;
    if (page_.held() == layout.chunk_count()) return layout.total_bytes();
    std::uint64_t bytes = 0;
    for (std::uint32_t chunk = 0; chunk < layout.chunk_count(); ++chunk) {
        if (page_.has(chunk)) bytes += layout.chunk_range(chunk).bytes;
    }
    return bytes;
}

registry::HoldingProgress HeldVersion::progress() const {
    const model::Layout& layout = manifest().layout;
    return {manifest().model, manifest().version, page_.held() == layout.chunk_count(),
            bytes_held(), to_hex(page_.bucket_bitmap(layout.options().chunks_per_bucket))};
}

registry::Holding HeldVersion::describe() const {
    registry::Holding holding = static_part_;
    registry::HoldingProgress now = progress();
    holding.complete = now.complete;
    holding.bytes_held = now.bytes_held;
    holding.buckets = std::move(now.buckets);
    return holding;
}

registry::PublishRequest HeldVersion::publish_request() const {
    registry::PublishRequest request;
    request.model = manifest().model;
    request.version = manifest().version;
    request.manifest = material_.named.name;
    request.manifest_bytes = material_.named.encoded.size();
    request.root = manifest().root();
    request.bytes = manifest().layout.total_bytes();
    request.chunk_count = manifest().layout.chunk_count();
    request.bucket_count = manifest().layout.bucket_count();
    request.channel = material_.channel;
    return request;
}

}  // namespace weightcast::agent
