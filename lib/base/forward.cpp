#include "base/forward.h"

#include <fmt/core.h>

namespace weightcast {

Result<void> load_functions(const char* library, const char* (*find_all)(const SharedObject&)) {
    WEIGHTCAST_TRY(const SharedObject opened, SharedObject::open(library));
    if (const char* const missing = find_all(opened)) {
        return Error{Code::unavailable, 0, fmt::format("{} has no {}", library, missing)};
    }
    return success();
}

}  // namespace weightcast
