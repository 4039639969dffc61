// The one place that names the transports. An embedder calls it to get its fabrics.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "weightcast/node.h"
#include "weightcast/result.h"

namespace weightcast::transport {

// Names of the transports that may be opened, best first: "shm", "tcp", "ucx".
std::vector<std::string> built_in();

// Opens the named transports (all if none is named), best first. One that cannot be
// opened here is left out with a logged reason, unless it was named. Errors: not_found (no such
// name), and what the named transport says.
Result<std::vector<std::unique_ptr<fabric::Fabric>>> open_fabrics(
    std::span<const std::string> names, const fabric::FabricOptions& options);

// One each; `memory` is for tests and takes its world (transport/memory/memory_fabric.h).
Result<std::unique_ptr<fabric::Fabric>> open_shm(const fabric::FabricOptions& options);
Result<std::unique_ptr<fabric::Fabric>> open_tcp(const fabric::FabricOptions& options);
Result<std::unique_ptr<fabric::Fabric>> open_ucx(const fabric::FabricOptions& options);

}  // namespace weightcast::transport
