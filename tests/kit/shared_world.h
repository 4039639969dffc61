// A MemoryWorld whose fabrics may be driven by different threads: one lock around all of it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "fabric/fabric.h"
#include "transport/memory/memory_fabric.h"

namespace weightcast::kit {

class SharedWorld {
  public:
    explicit SharedWorld(std::uint64_t seed);

    // A fabric that takes the world's lock in every call.
    Result<std::unique_ptr<fabric::Fabric>> open(const fabric::FabricOptions& options,
                                                 const std::string& address = {});
    // Runs `change(MemoryWorld&)` under the lock.
    template <typename Change>
    void with(Change change) {
        const std::lock_guard lock(*mutex_);
        change(world_);
    }

  private:
    std::shared_ptr<std::mutex> mutex_;
    transport::MemoryWorld world_;
};

}  // namespace weightcast::kit
