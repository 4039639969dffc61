// A library that a program loads when it wants it, and can do without.
#pragma once

#include <string>

#include "weightcast/result.h"

namespace weightcast {

// Never unloaded: such libraries have threads, and hooks in others. Copies are the same library.
class SharedObject {
  public:
    // `name` as dlopen() takes it, e.g. "libibverbs.so.1". Error{unavailable}: why it cannot be
    // loaded.
    static Result<SharedObject> open(const std::string& name);

    // A function, or nullptr: there is none of the name in it or in what it depends on.
    void* find(const char* name) const;
    // The same as a pointer of type Function*; false: there is none, and `function` is null.
    template <typename Function>
    bool find(const char* name, Function*& function) const {
        function = reinterpret_cast<Function*>(find(name));
        return function != nullptr;
    }

  private:
    explicit SharedObject(void* handle) : handle_(handle) {}

    void* handle_;
};

}  // namespace weightcast
