#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/freer.h"
#include "transport/doctor/facts.h"
#include "transport/verbs/load_rdma.h"

namespace weightcast::transport::doctor {
namespace {

// "1.14.44.0", from the name of a library's file.
std::string version_of(const std::string& library) {
    std::error_code failure;
    const auto file = std::filesystem::canonical(library, failure).filename().string();
    constexpr std::string_view kMark = ".so.";
    const auto mark = file.find(kMark);
    return failure || mark == std::string::npos ? std::string() : file.substr(mark + kMark.size());
}

// A descriptor that is none tells the driver that can from the one that cannot.
bool registers_dmabuf(::ibv_device* device) {
    const std::unique_ptr<::ibv_context, Freer<::ibv_close_device>> context(
        ::ibv_open_device(device));
    if (!context) return false;
    const std::unique_ptr<::ibv_pd, Freer<::ibv_dealloc_pd>> domain(::ibv_alloc_pd(context.get()));
    if (!domain) return false;
    constexpr std::size_t kPageBytes = 4096;
    constexpr int kNoDescriptor = -1;
    constexpr int kReadable = IBV_ACCESS_REMOTE_READ;
    const std::unique_ptr<::ibv_mr, Freer<::ibv_dereg_mr>> region(
        ::ibv_reg_dmabuf_mr(domain.get(), 0, kPageBytes, 0, kNoDescriptor, kReadable));
    return region || errno == EBADF;
}

void probe_dmabuf(RdmaFacts& facts) {
    int count = 0;
    const std::unique_ptr<::ibv_device*[], Freer<::ibv_free_device_list>> list(
        ::ibv_get_device_list(&count));
    for (int i = 0; list && i < count; ++i) {
        ::ibv_device* const device = list[static_cast<std::size_t>(i)];
        facts.dmabuf[::ibv_get_device_name(device)] = registers_dmabuf(device);
    }
}

ForkSafety fork_safety() {
    switch (::ibv_is_fork_initialized()) {
        case IBV_FORK_UNNEEDED:
            return ForkSafety::unneeded;
        case IBV_FORK_ENABLED:
            return ForkSafety::enabled;
        case IBV_FORK_DISABLED:
            return ForkSafety::disabled;
    }
    return ForkSafety::unknown;
}

}  // namespace

RdmaFacts gather_rdma() {
    RdmaFacts facts;
    if (auto loaded = verbs::load_rdma(); !loaded) {
        facts.why_none = std::move(loaded).error().message;
        return facts;
    }
    const verbs::RdmaFiles files = verbs::rdma_files();
    facts.version = "libibverbs " + version_of(files.verbs) + ", librdmacm " + version_of(files.cm);
    auto devices = verbs::list_devices(facts.trouble);
    if (!devices) {
        facts.why_none = std::move(devices).error().message;
        return facts;
    }
    facts.devices = std::move(devices).value();
    facts.fork = fork_safety();
    probe_dmabuf(facts);
    return facts;
}

CudaFacts gather_cuda() {
    CudaFacts facts;
    const auto driver = verbs::CudaDriver::load();
    if (!driver) {
        facts.why_none = driver.error().message;
        return facts;
    }
    auto inventory = driver.value()->inventory();
    if (inventory) {
        facts.inventory = std::move(inventory).value();
    } else {
        facts.why_none = std::move(inventory).error().message;
    }
    return facts;
}

}  // namespace weightcast::transport::doctor
