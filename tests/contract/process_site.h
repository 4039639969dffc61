// A Site whose peers are child processes.
#pragma once

#include <memory>

#include "tests/contract/fabrics.h"

namespace weightcast::contract {

using OpenFabric =
    std::function<Result<std::unique_ptr<fabric::Fabric>>(const fabric::FabricOptions&)>;

struct ProcessSiteOptions {
    OpenFabric open;          // of this process and of readers
    OpenFabric open_holder;   // of holders
    std::string nobody;       // an address of the fabric where nobody listens
    bool pins_files = false;  // as Site::pins_files()
};
std::unique_ptr<Site> make_process_site(ProcessSiteOptions options);

// Why `open` does not work here; empty if it does.
std::string reason_to_skip(const OpenFabric& open);
// The address that a fabric so opened has for its peers; empty if it cannot be opened.
std::string sample_address(const OpenFabric& open);

}  // namespace weightcast::contract
