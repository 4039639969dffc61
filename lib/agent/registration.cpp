#include "agent/registration.h"

#include <fmt/core.h>

#include "base/clock.h"
#include "base/log.h"

namespace weightcast::agent {
namespace {

Result<Registration::OfFabric> register_with(fabric::Fabric& fabric,
                                             std::span<const PlacedMemory> memory) {
    Registration::OfFabric registered{&fabric, {}};
    for (const PlacedMemory& placed : memory) {
        WEIGHTCAST_TRY(auto region,
                       fabric.register_memory(placed.memory, fabric::Access::remote_read));
        registered.regions.push_back(std::move(region));
    }
    return registered;
}

}  // namespace

Result<std::shared_ptr<Registration>> Registration::make(IoThread& io,
                                                         std::span<const PlacedMemory> memory) {
    const TimePoint start = system_clock().now();
    auto made = std::make_shared<Registration>();
    Error last{Code::unavailable, 0, "no transport is open"};
    std::uint64_t bytes = 0;
    for (const PlacedMemory& placed : memory) bytes += placed.memory.bytes.size();
    for (const auto& fabric : io.fabrics()) {
        auto registered = register_with(*fabric, memory);
        if (registered) {
            made->fabrics_.push_back(std::move(registered).value());
            continue;
        }
        last = registered.error();
        log(LogLevel::warning, "not serving over {}: {}", fabric->name(), last.message);
    }
    if (made->fabrics_.empty()) return last;
    made->seconds_ = weightcast::seconds(system_clock().now() - start);
    log(LogLevel::info, "registered {} bytes with {} transports in {:.3f} s", bytes,
        made->fabrics_.size(), made->seconds_);
    return made;
}

}  // namespace weightcast::agent
