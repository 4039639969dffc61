// Goal: CudaDriver finds where GPU memory lies and exports whole host pages of it, from threads
// without a CUDA context too, and its errors name what failed. Method: a fake driver library whose
// "GPU memory" is a range of addresses that nobody may touch.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/file.h"
#include "base/mapping.h"
#include "tests/kit/catch.h"
#include "tests/unit/transport/fake_cuda.h"
#include "transport/verbs/cuda_driver.h"

namespace {

using namespace weightcast;
using transport::verbs::CudaDriver;

constexpr std::uint64_t kBytes = 2 << 20U;

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Addresses of GPU memory. To the host they are no memory at all.
class GpuMemory {
  public:
    GpuMemory()
        : pages_(::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), kBytes) {}
    std::uint64_t base() const { return reinterpret_cast<std::uintptr_t>(pages_.data()); }
    // Not bounded by the memory: some tests ask for more.
    std::span<std::byte> bytes(std::uint64_t offset, std::uint64_t bytes) const {
        return {pages_.data() + offset, bytes};
    }

  private:
    Mapping pages_;
};

struct Fixture {
    GpuMemory memory;
    kit::FakeCudaLibrary fake{FAKE_CUDA};
    std::unique_ptr<CudaDriver> driver;

    Fixture() {
        REQUIRE(fake.get() != nullptr);
        fake->allocations.push_back({memory.base(), kBytes});
        auto loaded = CudaDriver::load(FAKE_CUDA);
        REQUIRE_OK(loaded);
        driver = std::move(loaded).value();
    }
    ~Fixture() { CHECK((fake->contexts_pushed == 0 && fake->contexts_retained == 0)); }

    bool was_called(const std::string& function) const {
        return std::count(fake->calls.begin(), fake->calls.end(), function) != 0;
    }
    Error locate_error(std::span<std::byte> bytes) const {
        const auto place = driver->locate(bytes);
        return place ? Error{} : place.error();
    }
};

}  // namespace

TEST_CASE("loading names a missing library or function") {
    const auto missing = CudaDriver::load("libcuda-that-is-not-there.so.1");
    REQUIRE(!missing);
    CHECK(missing.error().code == Code::unavailable);
    CHECK(contains(missing.error().message, "libcuda-that-is-not-there.so.1"));

    const auto incomplete = CudaDriver::load(FAKE_CUDA_WITHOUT_RANGES);
    REQUIRE(!incomplete);
    CHECK(incomplete.error().code == Code::unavailable);
    CHECK(contains(incomplete.error().message, "cuMemGetAddressRange_v2"));
}

TEST_CASE("locating tells device, PCI address and allocation") {
    Fixture cuda;
    cuda.fake->pci = {"0000:18:00.0", "0000:3b:00.0"};
    cuda.fake->allocations[0].device = 1;
    const auto place = cuda.driver->locate(cuda.memory.bytes(512, 1024));
    REQUIRE_OK(place);
    CHECK(place.value().device == 1);
    CHECK(place.value().pci == "0000:3b:00.0");
    CHECK(place.value().base == cuda.memory.base());
    CHECK(place.value().bytes == kBytes);
    CHECK(place.value().dmabuf_support);
    CHECK_FALSE(cuda.was_called("cuInit"));
    CHECK_FALSE(cuda.was_called("cuDevicePrimaryCtxRetain"));

    cuda.fake->dmabuf_supported = false;
    CHECK_FALSE(cuda.driver->locate(cuda.memory.bytes(0, 1)).value().dmabuf_support);
    cuda.fake->failures["cuDeviceGetAttribute"] = 1;
    CHECK_FALSE(cuda.driver->locate(cuda.memory.bytes(0, 1)).value().dmabuf_support);
}

TEST_CASE("locating works on a thread without a context, for pooled memory too") {
    Fixture cuda;
    for (const bool pooled : {false, true}) {
        cuda.fake->allocations[0].pooled = pooled;
        bool found = false;
        std::thread([&] {
            found = cuda.driver->locate(cuda.memory.bytes(0, kBytes)).has_value();
        }).join();
        CHECK(found);
        CHECK(cuda.was_called("cuDevicePrimaryCtxRetain") == pooled);
    }
}

TEST_CASE("locating refuses what is not device memory") {
    Fixture cuda;
    std::byte here{};
    CHECK(cuda.locate_error({&here, 1}).code == Code::invalid_input);
    CHECK(contains(cuda.locate_error({&here, 1}).message, "not CUDA device memory"));
    CHECK(cuda.locate_error(cuda.memory.bytes(0, 0)).code == Code::invalid_input);

    cuda.fake->allocations[0].memory_type = 1;  // page-locked host memory
    CHECK(cuda.locate_error(cuda.memory.bytes(0, 1)).code == Code::invalid_input);
    cuda.fake->allocations[0].memory_type = 2;
    cuda.fake->allocations[0].managed = true;
    CHECK(contains(cuda.locate_error(cuda.memory.bytes(0, 1)).message, "managed"));

    cuda.fake->initialized = false;
    const Error before = cuda.locate_error(cuda.memory.bytes(0, 1));
    CHECK(before.code == Code::invalid_input);
    CHECK(contains(before.message, "CUDA_ERROR_NOT_INITIALIZED"));
}

TEST_CASE("locating refuses bytes beyond the allocation") {
    Fixture cuda;
    CHECK(cuda.driver->locate(cuda.memory.bytes(1, kBytes - 1)).has_value());
    const Error beyond = cuda.locate_error(cuda.memory.bytes(1, kBytes));
    CHECK(beyond.code == Code::invalid_input);
    CHECK(contains(beyond.message, "not inside the allocation"));
}

TEST_CASE("an error of the driver is named, and contexts are restored") {
    for (const std::string function :
         {"cuMemGetAddressRange_v2", "cuCtxPushCurrent_v2", "cuDevicePrimaryCtxRetain",
          "cuDeviceGetPCIBusId", "cuDeviceGet"}) {
        Fixture cuda;
        cuda.fake->allocations[0].pooled = true;
        cuda.fake->failures[function] = 801;
        const Error error = cuda.locate_error(cuda.memory.bytes(0, 1));
        INFO(error.message);
        CHECK(error.code == Code::unavailable);
        CHECK(contains(error.message, function.substr(0, function.find("_v2"))));
        CHECK(contains(error.message, "CUDA_ERROR_NOT_SUPPORTED (801)"));
    }
    Fixture cuda;
    cuda.fake->failures["cuDeviceGet"] = 12345;
    CHECK(contains(cuda.locate_error(cuda.memory.bytes(0, 1)).message, "unknown error (12345)"));
}

TEST_CASE("exporting widens to whole pages and tells the offset") {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    struct Case {
        std::uint64_t offset, bytes, first, widened;
    };
    for (const Case& one :
         {Case{0, page, 0, page}, Case{0, 1, 0, page}, Case{page - 1, 1, 0, page},
          Case{page - 1, 2, 0, 2 * page}, Case{3 * page + 7, page, 3 * page, 2 * page},
          Case{0, kBytes, 0, kBytes}, Case{512, kBytes - 512, 0, kBytes}}) {
        Fixture cuda;
        INFO(one.offset << " " << one.bytes);
        auto dmabuf = cuda.driver->export_dmabuf(cuda.memory.bytes(one.offset, one.bytes));
        REQUIRE_OK(dmabuf);
        CHECK(dmabuf.value().offset == one.offset - one.first);
        CHECK(file_bytes(dmabuf.value().fd.get(), "dmabuf").value() == one.widened);
        const kit::FakeCuda::Export expected{cuda.memory.base() + one.first, one.widened, 1, 0, 0};
        CHECK(cuda.fake->exports == std::vector{expected});
    }
}

TEST_CASE("exporting says why the driver cannot") {
    Fixture cuda;
    cuda.fake->dmabuf_supported = false;
    cuda.fake->failures["cuMemGetHandleForAddressRange"] = 801;
    const auto refused = cuda.driver->export_dmabuf(cuda.memory.bytes(0, 1));
    REQUIRE(!refused);
    CHECK(refused.error().code == Code::unavailable);
    CHECK(contains(refused.error().message, "0000:18:00.0, which does not offer dmabuf"));
    CHECK(contains(refused.error().message, "CUDA_ERROR_NOT_SUPPORTED"));
    std::byte here{};
    CHECK(cuda.driver->export_dmabuf({&here, 1}).error().code == Code::invalid_input);
}

TEST_CASE("a driver from before dmabuf locates and exports nothing") {
    const GpuMemory memory;
    kit::FakeCudaLibrary fake(FAKE_CUDA_WITHOUT_EXPORT);
    REQUIRE(fake.get() != nullptr);
    fake->allocations.push_back({memory.base(), kBytes});
    const auto driver = CudaDriver::load(FAKE_CUDA_WITHOUT_EXPORT);
    REQUIRE_OK(driver);
    const auto place = driver.value()->locate(memory.bytes(0, 1));
    REQUIRE_OK(place);
    CHECK_FALSE(place.value().dmabuf_support);
    const auto refused = driver.value()->export_dmabuf(memory.bytes(0, 1));
    REQUIRE(!refused);
    CHECK(refused.error().code == Code::unavailable);
    CHECK(contains(refused.error().message, "cuMemGetHandleForAddressRange"));
}

TEST_CASE("the inventory names the driver and its devices") {
    Fixture cuda;
    cuda.fake->pci = {"0000:18:00.0", "0000:3b:00.0"};
    cuda.fake->initialized = false;
    const auto all = cuda.driver->inventory();
    REQUIRE_OK(all);
    CHECK(all.value().version == 12040);
    REQUIRE(all.value().devices.size() == 2);
    CHECK(all.value().devices[1].ordinal == 1);
    CHECK(all.value().devices[1].name == "Fake GPU");
    CHECK(all.value().devices[1].pci == "0000:3b:00.0");
    CHECK(all.value().devices[1].dmabuf_support);

    cuda.fake->failures["cuInit"] = 3;
    const auto failed = cuda.driver->inventory();
    REQUIRE(!failed);
    CHECK(failed.error().message == "cuInit: CUDA_ERROR_NOT_INITIALIZED (3)");
}
