// The one place that names the transports. An embedder calls it to get its fabrics.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "weightcast/node.h"
#include "weightcast/result.h"

namespace weightcast::transport {

// Names of the transports that may be opened, best first: "shm", "verbs", "tcp", "ucx".
std::vector<std::string> built_in();

// Opens the transports of `names` and `besides` (all if neither names one), best first. One that
// cannot be opened here is left out with a logged reason, unless it is of `names`. Errors:
// not_found (no such name), and what a transport of `names` says.
Result<std::vector<std::unique_ptr<fabric::Fabric>>> open_fabrics(
    std::span<const std::string> names, std::span<const std::string> besides,
    const fabric::FabricOptions& options);

// One each; `memory` is for tests and takes its world (transport/memory/memory_fabric.h).
Result<std::unique_ptr<fabric::Fabric>> open_shm(const fabric::FabricOptions& options);
Result<std::unique_ptr<fabric::Fabric>> open_verbs(const fabric::FabricOptions& options);
Result<std::unique_ptr<fabric::Fabric>> open_tcp(const fabric::FabricOptions& options);
Result<std::unique_ptr<fabric::Fabric>> open_ucx(const fabric::FabricOptions& options);

}  // namespace weightcast::transport
