// UCX is loaded when it is wanted: base/forward.h.
#pragma once

#include "weightcast/result.h"

namespace weightcast::transport::ucx {

// Before the first call of UCX. Thread-safe; what it said once it says again.
// Error{unavailable}: the library is not there, or lacks a function.
Result<void> load();

}  // namespace weightcast::transport::ucx
