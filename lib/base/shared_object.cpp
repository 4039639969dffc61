#include "base/shared_object.h"

#include <dlfcn.h>

namespace weightcast {

Result<SharedObject> SharedObject::open(const std::string& name) {
    if (void* const handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
        return SharedObject(handle);
    }
    const char* const why = ::dlerror();
    return Error{Code::unavailable, 0, why != nullptr ? why : "cannot load " + name};
}

void* SharedObject::find(const char* name) const { return ::dlsym(handle_, name); }

}  // namespace weightcast
