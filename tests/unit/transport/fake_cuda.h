// A stand-in for libcuda.so.1, built as a shared module: "GPU memory" is whatever addresses a test
// declares to be it. It records calls and fails on demand.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/freer.h"

namespace weightcast::kit {

struct FakeCuda {
    struct Allocation {
        std::uint64_t base = 0;
        std::uint64_t bytes = 0;
        int device = 0;
        bool pooled = false;  // belongs to no context, like memory of a pool
        bool managed = false;
        unsigned memory_type = 2;  // device memory
    };
    struct Export {
        std::uint64_t address = 0;
        std::uint64_t bytes = 0;
        int handle_type = 0;
        unsigned long long flags = 0;
        int context_device = -1;  // of the context that was current; -1: none
        auto operator<=>(const Export&) const = default;
    };

    std::vector<Allocation> allocations;
    std::vector<std::string> pci{"0000:18:00.0"};  // one for each device
    bool dmabuf_supported = true;
    bool initialized = true;
    std::map<std::string, int> failures;  // by function, the status it gives instead of working
    std::vector<std::string> calls;
    std::vector<Export> exports;
    int contexts_retained = 0;  // and not released
    int contexts_pushed = 0;    // and not popped
};

// The state behind one loaded copy of the module, as it is at its first loading. Holds it loaded.
class FakeCudaLibrary {
  public:
    explicit FakeCudaLibrary(const char* path) : library_(::dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
        if (!library_) return;
        using State = FakeCuda* (*)();
        const auto state = reinterpret_cast<State>(::dlsym(library_.get(), "fake_cuda_state"));
        if (state != nullptr) state_ = state();
        if (state_ != nullptr) *state_ = FakeCuda();
    }
    // Null if the module cannot be loaded.
    FakeCuda* get() const { return state_; }
    FakeCuda* operator->() const { return state_; }

  private:
    std::unique_ptr<void, Freer<::dlclose>> library_;
    FakeCuda* state_ = nullptr;
};

}  // namespace weightcast::kit
