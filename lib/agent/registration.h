// Memory that is registered with the transports for peers to read.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "agent/destination.h"
#include "agent/io_thread.h"
#include "fabric/fabric.h"

namespace weightcast::agent {

// As long as this lives, whoever knows the keys may read.
class Registration {
  public:
    struct OfFabric {
        fabric::Fabric* fabric = nullptr;
        std::vector<std::unique_ptr<fabric::Region>> regions;  // one for each memory, in order
    };

    // With every transport; one that cannot is left out with a warning. Takes seconds for hundreds
    // of gigabytes. Errors: of the last transport, if none could.
    static Result<std::shared_ptr<Registration>> make(IoThread& io,
                                                      std::span<const PlacedMemory> memory);

    const std::vector<OfFabric>& fabrics() const { return fabrics_; }
    double seconds() const { return seconds_; }

  private:
    std::vector<OfFabric> fabrics_;
    double seconds_ = 0;  // that it took
};

}  // namespace weightcast::agent
