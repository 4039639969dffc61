#include "tests/unit/transport/fake_cuda.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "base/mapping.h"

namespace {

using weightcast::kit::FakeCuda;

FakeCuda& state() {
    static FakeCuda only;
    return only;
}

// A device's context is its place in this array.
std::array<char, 16> contexts;
thread_local std::vector<void*> current_contexts;

int begin(const char* function) {
    state().calls.emplace_back(function);
    const auto failure = state().failures.find(function);
    return failure == state().failures.end() ? 0 : failure->second;
}

constexpr int kInvalidValue = 1;
constexpr int kNotInitialized = 3;
constexpr int kInvalidDevice = 101;
constexpr int kInvalidContext = 201;
[[maybe_unused]] constexpr int kNotFound = 500;

[[maybe_unused]] const FakeCuda::Allocation* find(std::uint64_t address) {
    for (const auto& one : state().allocations) {
        if (address >= one.base && address - one.base < one.bytes) return &one;
    }
    return nullptr;
}

void* context_of(int device) { return &contexts.at(static_cast<std::size_t>(device)); }

[[maybe_unused]] int current_device() {
    if (current_contexts.empty()) return -1;
    return static_cast<int>(static_cast<char*>(current_contexts.back()) - contexts.data());
}

bool is_device(int device) {
    return device >= 0 && static_cast<std::size_t>(device) < state().pci.size();
}

int copy_text(const std::string& text, char* to, int bytes) {
    if (bytes <= static_cast<int>(text.size())) return kInvalidValue;
    std::memcpy(to, text.c_str(), text.size() + 1);
    return 0;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

FakeCuda* fake_cuda_state() { return &state(); }

int cuInit(unsigned) {
    if (const int failed = begin("cuInit")) return failed;
    state().initialized = true;
    return 0;
}

int cuGetErrorName(int error, const char** name) {
    switch (error) {
        case kInvalidValue:
            *name = "CUDA_ERROR_INVALID_VALUE";
            return 0;
        case kNotInitialized:
            *name = "CUDA_ERROR_NOT_INITIALIZED";
            return 0;
        case kInvalidContext:
            *name = "CUDA_ERROR_INVALID_CONTEXT";
            return 0;
        case 801:
            *name = "CUDA_ERROR_NOT_SUPPORTED";
            return 0;
        default:
            *name = nullptr;
            return kInvalidValue;
    }
}

int cuDriverGetVersion(int* version) {
    if (const int failed = begin("cuDriverGetVersion")) return failed;
    *version = 12040;
    return 0;
}

int cuDeviceGetCount(int* count) {
    if (const int failed = begin("cuDeviceGetCount")) return failed;
    if (!state().initialized) return kNotInitialized;
    *count = static_cast<int>(state().pci.size());
    return 0;
}

int cuDeviceGet(int* device, int ordinal) {
    if (const int failed = begin("cuDeviceGet")) return failed;
    *device = ordinal;
    return is_device(ordinal) ? 0 : kInvalidDevice;
}

int cuDeviceGetName(char* name, int bytes, int) { return copy_text("Fake GPU", name, bytes); }

int cuDeviceGetPCIBusId(char* text, int bytes, int device) {
    if (const int failed = begin("cuDeviceGetPCIBusId")) return failed;
    if (!is_device(device)) return kInvalidDevice;
    std::string pci = state().pci[static_cast<std::size_t>(device)];
    std::transform(pci.begin(), pci.end(), pci.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return copy_text(pci, text, bytes);
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
    if (const int failed = begin("cuDeviceGetAttribute")) return failed;
    if (attribute != 124) return kInvalidValue;
    *value = state().dmabuf_supported ? 1 : 0;
    return 0;
}

int cuPointerGetAttributes(unsigned count, int* which, void** values, unsigned long long address) {
    if (const int failed = begin("cuPointerGetAttributes")) return failed;
    if (!state().initialized) return kNotInitialized;
    const auto* const found = find(address);
    for (unsigned i = 0; i < count; ++i) {
        switch (which[i]) {
            case 1: {
                void* const context =
                    found == nullptr || found->pooled ? nullptr : context_of(found->device);
                std::memcpy(values[i], &context, sizeof context);
                break;
            }
            case 2: {
                const unsigned type = found == nullptr ? 0 : found->memory_type;
                std::memcpy(values[i], &type, sizeof type);
                break;
            }
            case 8: {
                const unsigned managed = found != nullptr && found->managed ? 1 : 0;
                std::memcpy(values[i], &managed, sizeof managed);
                break;
            }
            case 9: {
                const int device = found == nullptr ? -2 : found->device;
                std::memcpy(values[i], &device, sizeof device);
                break;
            }
            default:
                return kInvalidValue;
        }
    }
    return 0;
}

#ifndef FAKE_CUDA_WITHOUT_RANGES
int cuMemGetAddressRange_v2(unsigned long long* base, std::size_t* bytes,
                            unsigned long long address) {
    if (const int failed = begin("cuMemGetAddressRange_v2")) return failed;
    if (current_contexts.empty()) return kInvalidContext;
    const auto* const found = find(address);
    if (found == nullptr || found->device != current_device()) return kNotFound;
    *base = found->base;
    *bytes = found->bytes;
    return 0;
}
#endif

int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (const int failed = begin("cuDevicePrimaryCtxRetain")) return failed;
    if (!is_device(device)) return kInvalidDevice;
    *context = context_of(device);
    ++state().contexts_retained;
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int) {
    --state().contexts_retained;
    return begin("cuDevicePrimaryCtxRelease_v2");
}

int cuCtxPushCurrent_v2(void* context) {
    if (const int failed = begin("cuCtxPushCurrent_v2")) return failed;
    current_contexts.push_back(context);
    ++state().contexts_pushed;
    return 0;
}

int cuCtxPopCurrent_v2(void** context) {
    if (const int failed = begin("cuCtxPopCurrent_v2")) return failed;
    if (current_contexts.empty()) return kInvalidContext;
    *context = current_contexts.back();
    current_contexts.pop_back();
    --state().contexts_pushed;
    return 0;
}

#ifndef FAKE_CUDA_WITHOUT_EXPORT
int cuMemGetHandleForAddressRange(void* handle, unsigned long long address, std::size_t bytes,
                                  int handle_type, unsigned long long flags) {
    if (const int failed = begin("cuMemGetHandleForAddressRange")) return failed;
    const auto page_bytes = static_cast<unsigned long long>(::sysconf(_SC_PAGESIZE));
    if (address % page_bytes != 0 || bytes % page_bytes != 0) return kInvalidValue;
    state().exports.push_back({address, bytes, handle_type, flags, current_device()});
    // Any descriptor will do: its size tells the test which one it is.
    auto memory = weightcast::SharedMemory::create("fake-dmabuf", bytes);
    if (!memory) return kInvalidValue;
    const int fd = memory.value().fd.release();
    std::memcpy(handle, &fd, sizeof fd);
    return 0;
}
#endif

}  // extern "C"
#pragma GCC visibility pop
