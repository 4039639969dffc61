#include "agent/held_version.h"

#include <fmt/core.h>

#include <cstring>

#include "base/clock.h"
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
    registered_.clear();
}

Result<HeldVersion::Registered> HeldVersion::register_with(fabric::Fabric& fabric) {
    Registered registered{fabric.name(), {}, nullptr, nullptr};
    const auto access = fabric::Access::remote_read;
    for (const PlacedMemory& placed : material_.memory) {
        WEIGHTCAST_TRY(auto region, fabric.register_memory(placed.memory, access));
        registered.regions.push_back(std::move(region));
    }
    const SharedMemory& page = page_.memory();
    WEIGHTCAST_TRY(registered.page,
                   fabric.register_memory({page.pages.span(), page.fd.get(), 0, false}, access));
    const SharedMemory& manifest = manifest_memory_;
    WEIGHTCAST_TRY(
        registered.manifest,
        fabric.register_memory({manifest.pages.span(), manifest.fd.get(), 0, false}, access));
    return registered;
}

Result<void> HeldVersion::register_all() {
    for (std::uint32_t i = 0; i < material_.memory.size(); ++i) {
        const PlacedMemory& placed = material_.memory[i];
        static_part_.extents.push_back({placed.place, placed.memory.bytes.size(), i, 0});
    }
    const TimePoint start = system_clock().now();
    Error last{Code::unavailable, 0, "no transport is open"};
    std::vector<Registered> all;
    for (const auto& fabric : io_.fabrics()) {
        auto registered = register_with(*fabric);
        if (!registered) {
            last = registered.error();
            log(LogLevel::warning, "not serving over {}: {}", fabric->name(), last.message);
            continue;
        }
        registry::FabricKeys keys;
        for (const auto& region : registered.value().regions) keys.regions.push_back(region->key());
        keys.page = registered.value().page->key();
        keys.manifest = registered.value().manifest->key();
        static_part_.keys[fabric->name()] = std::move(keys);
        all.push_back(std::move(registered).value());
    }
    if (all.empty()) return last;
    registration_seconds_ = seconds(system_clock().now() - start);
    log(LogLevel::info, "registered {} bytes with {} transports in {:.3f} s",
        manifest().layout.total_bytes(), all.size(), registration_seconds_.load());
    {
        const std::lock_guard lock(mutex_);
        // Withdrawn in the meantime: all of it goes at once.
        if (!withdrawn_) registered_ = std::move(all);
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
