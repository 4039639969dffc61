// The little of CUDA's driver that registering GPU memory takes, loaded at run time: the program
// needs neither CUDA to be built nor a GPU to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "weightcast/result.h"

namespace weightcast::transport::verbs {

struct CudaFunctions;

// GPU memory as a dmabuf, for ibv_reg_dmabuf_mr().
struct Dmabuf {
    UniqueFd fd;
    std::uint64_t offset = 0;  // of the wanted bytes in it
};

// Where a GPU address lies.
struct CudaPlace {
    int device = 0;
    std::string pci;              // of the GPU, e.g. "0000:18:00.0"
    std::uint64_t base = 0;       // of the allocation
    std::uint64_t bytes = 0;      // of the allocation
    bool dmabuf_support = false;  // CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED
};

struct CudaDevice {
    int ordinal = 0;
    std::string name;
    std::string pci;
    bool dmabuf_support = false;
};

struct CudaInventory {
    int version = 0;  // the newest CUDA that the driver supports, e.g. 12040 for 12.4
    std::vector<CudaDevice> devices;
};

// Thread-safe. A call leaves the thread's current CUDA context as it was.
class CudaDriver {
  public:
    // Loads `library` and finds its functions. Does not initialize CUDA.
    // Errors: unavailable (naming the library or the function that is missing).
    static Result<std::unique_ptr<CudaDriver>> load(const std::string& library = "libcuda.so.1");
    ~CudaDriver();
    CudaDriver(const CudaDriver&) = delete;
    CudaDriver& operator=(const CudaDriver&) = delete;

    // Errors: invalid_input (not CUDA device memory, managed, or not inside one allocation),
    // unavailable (the driver cannot say, with its error's name).
    Result<CudaPlace> locate(std::span<std::byte> bytes) const;
    // Exports the host pages that hold `bytes`: whole ones, as cuMemGetHandleForAddressRange wants
    // them, so that of a small allocation's neighbours some may be in it.
    // Errors: unavailable (the driver cannot, with its error's name), invalid_input.
    Result<Dmabuf> export_dmabuf(std::span<std::byte> bytes) const;
    // The driver and its devices. Initializes CUDA. Errors: unavailable.
    Result<CudaInventory> inventory() const;

  private:
    explicit CudaDriver(std::unique_ptr<CudaFunctions> functions);
    std::unique_ptr<CudaFunctions> functions_;
};

}  // namespace weightcast::transport::verbs
