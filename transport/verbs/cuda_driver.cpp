#include "transport/verbs/cuda_driver.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "base/freer.h"
#include "base/shared_object.h"

namespace weightcast::transport::verbs {
namespace {

// From cuda.h, which is not needed to build.
using Status = int;
using DeviceHandle = int;
using Address = unsigned long long;
using Context = void*;
constexpr Status kSuccess = 0;
constexpr unsigned kMemoryTypeDevice = 2;
constexpr int kPointerContext = 1;
constexpr int kPointerMemoryType = 2;
constexpr int kPointerIsManaged = 8;
constexpr int kPointerDeviceOrdinal = 9;
constexpr int kDeviceDmabufSupported = 124;
constexpr int kRangeHandleDmabuf = 1;

}  // namespace

struct CudaFunctions {
    Status (*init)(unsigned);
    Status (*get_error_name)(Status, const char**);
    Status (*get_version)(int*);
    Status (*get_count)(int*);
    Status (*get_device)(DeviceHandle*, int);
    Status (*get_name)(char*, int, DeviceHandle);
    Status (*get_pci)(char*, int, DeviceHandle);
    Status (*get_attribute)(int*, int, DeviceHandle);
    Status (*get_pointer_attributes)(unsigned, int*, void**, Address);
    Status (*get_range)(Address*, std::size_t*, Address);
    Status (*retain_primary)(Context*, DeviceHandle);
    Status (*release_primary)(DeviceHandle);
    Status (*push_context)(Context);
    Status (*pop_context)(Context*);
    // Null before CUDA 11.7.
    Status (*export_range)(void*, Address, std::size_t, int, unsigned long long);

    Error error(Code code, const std::string& what, Status status) const {
        const char* name = nullptr;
        if (get_error_name(status, &name) != kSuccess || name == nullptr) name = "unknown error";
        return {code, 0, fmt::format("{}: {} ({})", what, name, status)};
    }
    Result<std::string> pci_of(DeviceHandle device) const;
    bool can_export(DeviceHandle device) const {
        int yes = 0;
        return export_range != nullptr &&
               get_attribute(&yes, kDeviceDmabufSupported, device) == kSuccess && yes != 0;
    }
};

namespace {

using Functions = CudaFunctions;

// Makes a context current while it lives: that of an allocation, or if it has none (it came from a
// pool or was mapped), the primary one of its device.
class CurrentContext {
  public:
    static Result<CurrentContext> make(const Functions& cuda, Context context,
                                       DeviceHandle device) {
        CurrentContext current(cuda, device);
        if (context == nullptr) {
            if (const Status failed = cuda.retain_primary(&context, device)) {
                return cuda.error(Code::unavailable, "cuDevicePrimaryCtxRetain", failed);
            }
            current.retained_ = true;
        }
        if (const Status failed = cuda.push_context(context)) {
            return cuda.error(Code::unavailable, "cuCtxPushCurrent", failed);
        }
        current.pushed_ = true;
        return current;
    }
    CurrentContext(CurrentContext&& other) noexcept
        : cuda_(other.cuda_),
          device_(other.device_),
          retained_(std::exchange(other.retained_, false)),
          pushed_(std::exchange(other.pushed_, false)) {}
    CurrentContext& operator=(CurrentContext&&) = delete;
    ~CurrentContext() {
        Context popped = nullptr;
        if (pushed_) cuda_.pop_context(&popped);
        if (retained_) cuda_.release_primary(device_);
    }

  private:
    CurrentContext(const Functions& cuda, DeviceHandle device) : cuda_(cuda), device_(device) {}

    const Functions& cuda_;
    DeviceHandle device_;
    bool retained_ = false;
    bool pushed_ = false;
};

struct Pointer {
    Context context = nullptr;
    DeviceHandle device = 0;
    int ordinal = 0;
};

Address address_of(std::span<std::byte> bytes) {
    return reinterpret_cast<std::uintptr_t>(bytes.data());
}

std::string describe(std::span<std::byte> bytes) {
    return fmt::format("memory at {:#x} of {} bytes", address_of(bytes), bytes.size());
}

Result<Pointer> find_pointer(const Functions& cuda, std::span<std::byte> bytes) {
    Pointer found;
    unsigned memory_type = 0;
    unsigned managed = 0;
    std::array<int, 4> which{kPointerMemoryType, kPointerIsManaged, kPointerDeviceOrdinal,
                             kPointerContext};
    std::array<void*, 4> values{&memory_type, &managed, &found.ordinal, &found.context};
    // Works without a current context. Where CUDA was not initialized there is no memory of its.
    const Status failed =
        cuda.get_pointer_attributes(which.size(), which.data(), values.data(), address_of(bytes));
    const std::string what = describe(bytes) + " is not CUDA device memory";
    if (failed) return cuda.error(Code::invalid_input, what, failed);
    if (memory_type != kMemoryTypeDevice || bytes.empty())
        return Error{Code::invalid_input, 0, what};
    if (managed != 0) {
        return Error{Code::invalid_input, 0,
                     describe(bytes) + " is managed: its pages move, so no device can read it"};
    }
    if (const Status no_device = cuda.get_device(&found.device, found.ordinal)) {
        return cuda.error(Code::unavailable, "cuDeviceGet", no_device);
    }
    return found;
}

Result<CudaPlace> find_place(const Functions& cuda, const Pointer& pointer,
                             std::span<std::byte> bytes) {
    CudaPlace place;
    place.device = pointer.ordinal;
    Address base = 0;
    std::size_t allocated = 0;
    if (const Status failed = cuda.get_range(&base, &allocated, address_of(bytes))) {
        return cuda.error(Code::unavailable, "cuMemGetAddressRange of " + describe(bytes), failed);
    }
    place.base = base;
    place.bytes = allocated;
    const std::uint64_t before = address_of(bytes) - base;
    if (address_of(bytes) < base || before > allocated || bytes.size() > allocated - before) {
        return Error{Code::invalid_input, 0,
                     fmt::format("{} is not inside the allocation at {:#x} of {} bytes",
                                 describe(bytes), base, allocated)};
    }
    WEIGHTCAST_TRY(place.pci, cuda.pci_of(pointer.device));
    place.dmabuf_support = cuda.can_export(pointer.device);
    return place;
}

const char* missing_function(const SharedObject& library, Functions& cuda) {
    library.find("cuMemGetHandleForAddressRange", cuda.export_range);
    if (!library.find("cuInit", cuda.init)) return "cuInit";
    if (!library.find("cuGetErrorName", cuda.get_error_name)) return "cuGetErrorName";
    if (!library.find("cuDriverGetVersion", cuda.get_version)) return "cuDriverGetVersion";
    if (!library.find("cuDeviceGetCount", cuda.get_count)) return "cuDeviceGetCount";
    if (!library.find("cuDeviceGet", cuda.get_device)) return "cuDeviceGet";
    if (!library.find("cuDeviceGetName", cuda.get_name)) return "cuDeviceGetName";
    if (!library.find("cuDeviceGetPCIBusId", cuda.get_pci)) return "cuDeviceGetPCIBusId";
    if (!library.find("cuDeviceGetAttribute", cuda.get_attribute)) return "cuDeviceGetAttribute";
    if (!library.find("cuPointerGetAttributes", cuda.get_pointer_attributes)) {
        return "cuPointerGetAttributes";
    }
    if (!library.find("cuMemGetAddressRange_v2", cuda.get_range)) return "cuMemGetAddressRange_v2";
    if (!library.find("cuDevicePrimaryCtxRetain", cuda.retain_primary)) {
        return "cuDevicePrimaryCtxRetain";
    }
    if (!library.find("cuDevicePrimaryCtxRelease_v2", cuda.release_primary)) {
        return "cuDevicePrimaryCtxRelease_v2";
    }
    if (!library.find("cuCtxPushCurrent_v2", cuda.push_context)) return "cuCtxPushCurrent_v2";
    if (!library.find("cuCtxPopCurrent_v2", cuda.pop_context)) return "cuCtxPopCurrent_v2";
    return nullptr;
}

}  // namespace

Result<std::string> CudaFunctions::pci_of(DeviceHandle device) const {
    std::array<char, 32> text{};
    if (const Status failed = get_pci(text.data(), static_cast<int>(text.size()) - 1, device)) {
        return error(Code::unavailable, "cuDeviceGetPCIBusId", failed);
    }
    std::string pci = text.data();  // with capital letters, unlike sysfs
    std::transform(pci.begin(), pci.end(), pci.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return pci;
}

CudaDriver::CudaDriver(std::unique_ptr<CudaFunctions> functions)
    : functions_(std::move(functions)) {}

CudaDriver::~CudaDriver() = default;

Result<std::unique_ptr<CudaDriver>> CudaDriver::load(const std::string& library) {
    auto functions = std::make_unique<CudaFunctions>();
    const auto opened = SharedObject::open(library);
    if (!opened) {
        return Error{Code::unavailable, 0,
                     fmt::format("the CUDA driver cannot be loaded: {}", opened.error().message)};
    }
    if (const char* const missing = missing_function(opened.value(), *functions)) {
        return Error{Code::unavailable, 0, fmt::format("{} has no {}", library, missing)};
    }
    return std::unique_ptr<CudaDriver>(new CudaDriver(std::move(functions)));
}

Result<CudaPlace> CudaDriver::locate(std::span<std::byte> bytes) const {
    WEIGHTCAST_TRY(const Pointer pointer, find_pointer(*functions_, bytes));
    WEIGHTCAST_TRY(const auto current,
                   CurrentContext::make(*functions_, pointer.context, pointer.device));
    return find_place(*functions_, pointer, bytes);
}

Result<Dmabuf> CudaDriver::export_dmabuf(std::span<std::byte> bytes) const {
    WEIGHTCAST_TRY(const Pointer pointer, find_pointer(*functions_, bytes));
    WEIGHTCAST_TRY(const auto current,
                   CurrentContext::make(*functions_, pointer.context, pointer.device));
    WEIGHTCAST_TRY(const CudaPlace place, find_place(*functions_, pointer, bytes));
    if (functions_->export_range == nullptr) {
        return Error{Code::unavailable, 0,
                     "the CUDA driver has no cuMemGetHandleForAddressRange: it is older than 11.7"};
    }
    const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t first = address_of(bytes) / page_bytes * page_bytes;
    const std::uint64_t last = (address_of(bytes) + bytes.size() - 1) / page_bytes * page_bytes;
    const std::uint64_t widened = last - first + page_bytes;
    int fd = -1;
    const Status failed = functions_->export_range(&fd, first, widened, kRangeHandleDmabuf, 0);
    if (failed) {
        return functions_->error(
            Code::unavailable,
            fmt::format("cuMemGetHandleForAddressRange of {} bytes of GPU {}{}", widened, place.pci,
                        place.dmabuf_support ? "" : ", which does not offer dmabuf"),
            failed);
    }
    return Dmabuf{UniqueFd(fd), address_of(bytes) - first};
}

Result<CudaInventory> CudaDriver::inventory() const {
    const Functions& cuda = *functions_;
    if (const Status failed = cuda.init(0)) return cuda.error(Code::unavailable, "cuInit", failed);
    CudaInventory result;
    int count = 0;
    if (const Status failed = cuda.get_version(&result.version)) {
        return cuda.error(Code::unavailable, "cuDriverGetVersion", failed);
    }
    if (const Status failed = cuda.get_count(&count)) {
        return cuda.error(Code::unavailable, "cuDeviceGetCount", failed);
    }
    for (int ordinal = 0; ordinal < count; ++ordinal) {
        CudaDevice one;
        one.ordinal = ordinal;
        DeviceHandle device = 0;
        if (const Status failed = cuda.get_device(&device, ordinal)) {
            return cuda.error(Code::unavailable, "cuDeviceGet", failed);
        }
        std::array<char, 256> name{};
        if (cuda.get_name(name.data(), static_cast<int>(name.size()) - 1, device) == kSuccess) {
            one.name = name.data();
        }
        WEIGHTCAST_TRY(one.pci, cuda.pci_of(device));
        one.dmabuf_support = cuda.can_export(device);
        result.devices.push_back(std::move(one));
    }
    return result;
}

}  // namespace weightcast::transport::verbs
