// GPUs: whether RDMA devices can read their memory, and how near they are.
#include <fmt/core.h>

#include <algorithm>

#include "transport/doctor/examine.h"
#include "transport/doctor/host_files.h"

namespace weightcast::transport::doctor {
namespace {

constexpr const char* kGpuTopic = "gpu";
constexpr std::int64_t kVendorNvidia = 0x10de;
constexpr std::int64_t kClassVga = 0x0300;  // the upper two bytes of three
constexpr std::int64_t kClass3d = 0x0302;

std::vector<std::string> find_gpus(const Roots& roots) {
    const std::string folder = roots.sys + "/bus/pci/devices/";
    std::vector<std::string> gpus;
    for (const std::string& address : list_folder(folder)) {
        if (read_number(folder + address + "/vendor") != kVendorNvidia) continue;
        const std::int64_t kind = read_number(folder + address + "/class").value_or(0) >> 8U;
        if (kind == kClassVga || kind == kClass3d) gpus.push_back(address);
    }
    return gpus;
}

void examine_affinity(const Facts& facts, const std::string& gpu, std::vector<Finding>& findings) {
    const verbs::Device* nearest = nullptr;
    auto distance = verbs::PciDistance::unknown;
    for (const verbs::Device& device : facts.rdma.devices) {
        if (device.software()) continue;
        const auto here = verbs::pci_distance(gpu, device.pci, facts.roots.sys);
        if (nearest != nullptr && here >= distance) continue;
        nearest = &device;
        distance = here;
    }
    if (nearest == nullptr) return;
    const bool far = distance == verbs::PciDistance::other_node;
    findings.push_back(
        {far ? Severity::warning : Severity::ok, kGpuTopic,
         fmt::format("GPU {}: the nearest RDMA device is {}, {}", gpu, nearest->name,
                     verbs::to_string(distance)),
         far ? "reads to and from it cross the sockets; prefer a GPU with a device of its own"
             : ""});
}

void examine_registration(const Facts& facts, std::vector<Finding>& findings) {
    const std::string modules = facts.roots.sys + "/module/";
    const bool peermem = exists(modules + "nvidia_peermem") || exists(modules + "nv_peer_mem");
    const bool kernel = is_kernel(facts.roots, 5, 12);
    const bool driver = std::any_of(facts.rdma.dmabuf.begin(), facts.rdma.dmabuf.end(),
                                    [](const auto& one) { return one.second; });
    const bool cuda =
        facts.cuda.inventory &&
        std::any_of(facts.cuda.inventory->devices.begin(), facts.cuda.inventory->devices.end(),
                    [](const auto& one) { return one.dmabuf_support; });
    if (kernel && driver && cuda) {
        findings.push_back({Severity::ok, kGpuTopic, "GPU memory can be registered as dmabuf", ""});
    } else {
        findings.push_back({peermem ? Severity::note : Severity::warning, kGpuTopic,
                            fmt::format("GPU memory cannot be registered as dmabuf: {}",
                                        !kernel   ? "Linux is older than 5.12"
                                        : !driver ? "no RDMA device's driver takes one"
                                                  : "CUDA's driver offers none"),
                            !kernel || !driver
                                ? ""
                                : "use NVIDIA's open kernel modules, and a driver of CUDA 11.7 or "
                                  "newer"});
    }
    findings.push_back({peermem || (kernel && driver && cuda) ? Severity::ok : Severity::note,
                        kGpuTopic,
                        peermem ? "nvidia-peermem is loaded" : "nvidia-peermem is not loaded",
                        peermem || (kernel && driver && cuda)
                            ? ""
                            : "`modprobe nvidia-peermem` is the other way to register GPU memory"});
}

}  // namespace

void examine_gpus(const Facts& facts, std::vector<Finding>& findings) {
    const auto gpus = find_gpus(facts.roots);
    if (facts.cuda.inventory) {
        const int version = facts.cuda.inventory->version;
        findings.push_back(
            {Severity::ok, kGpuTopic,
             fmt::format("CUDA's driver is for {}.{} and has {} devices", version / 1000,
                         version % 1000 / 10, facts.cuda.inventory->devices.size()),
             ""});
        for (const verbs::CudaDevice& device : facts.cuda.inventory->devices) {
            findings.push_back({Severity::ok, kGpuTopic,
                                fmt::format("GPU {}: {}; dmabuf: {}", device.pci, device.name,
                                            device.dmabuf_support ? "yes" : "no"),
                                ""});
        }
    } else if (!gpus.empty() && !facts.cuda.why_none.empty()) {
        findings.push_back({Severity::warning, kGpuTopic, facts.cuda.why_none,
                            "install NVIDIA's driver; in a container: `docker run --gpus all`"});
    }
    if (gpus.empty()) {
        findings.push_back({Severity::note, kGpuTopic, "there is no NVIDIA GPU", ""});
        return;
    }
    for (const std::string& gpu : gpus) examine_affinity(facts, gpu, findings);
    if (!facts.rdma.devices.empty()) examine_registration(facts, findings);
}

}  // namespace weightcast::transport::doctor
