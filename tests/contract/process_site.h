// A Site whose peers are child processes.
#pragma once

#include <memory>

#include "tests/contract/fabrics.h"

namespace weightcast::contract {

using OpenFabric =
    std::function<Result<std::unique_ptr<fabric::Fabric>>(const fabric::FabricOptions&)>;

// `nobody` is an address of the fabric where nobody listens.
std::unique_ptr<Site> make_process_site(OpenFabric open, std::string nobody);

// Why `open` does not work here; empty if it does.
std::string reason_to_skip(const OpenFabric& open);

}  // namespace weightcast::contract
