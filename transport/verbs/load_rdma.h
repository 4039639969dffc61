// rdma-core is loaded when it is wanted: base/forward.h.
#pragma once

#include <string>

#include "weightcast/result.h"

namespace weightcast::transport::verbs {

// Before the first call of libibverbs or librdmacm. Thread-safe; what it said once it says again.
// Error{unavailable}: a library is not there, or lacks a function.
Result<void> load_rdma();

// The files that they were loaded from. REQUIRES: load_rdma() succeeded
struct RdmaFiles {
    std::string verbs;
    std::string cm;
};
RdmaFiles rdma_files();

}  // namespace weightcast::transport::verbs
