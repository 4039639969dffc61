// RDMA devices and their ports: whether reads can go through them.
#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>

#include "transport/doctor/examine.h"
#include "transport/doctor/host_files.h"

namespace weightcast::transport::doctor {
namespace {

using verbs::Device;
using verbs::Gid;
using verbs::GidType;
using verbs::LinkLayer;
using verbs::Port;

constexpr const char* kDeviceTopic = "device";

std::string name_of(const Device& device, const Port& port) {
    return fmt::format("{}:{}", device.name, port.number);
}

void examine_absence(const Facts& facts, std::vector<Finding>& findings) {
    const auto in_kernel = list_folder(facts.roots.sys + "/class/infiniband");
    if (!facts.rdma.built_in) {
        findings.push_back(
            {Severity::error, kDeviceTopic,
             "this program was built without rdma-core: it has no verbs",
             in_kernel.empty()
                 ? "weights travel by shm and tcp"
                 : fmt::format("build it where libibverbs-dev and librdmacm-dev are installed; the "
                               "kernel has {}",
                               fmt::join(in_kernel, ", "))});
        return;
    }
    std::string advice =
        "is a card there (`lspci`), and its driver (`modprobe mlx5_ib`)? For tests, software RDMA: "
        "`rdma link add rxe0 type rxe netdev eth0`";
    if (facts.rdma.version.empty()) {
        advice = "install librdmacm1 and ibverbs-providers (Debian, Ubuntu), or librdmacm (Fedora)";
    } else if (!in_kernel.empty() && !exists(facts.roots.dev + "/infiniband")) {
        advice = fmt::format(
            "the kernel has {}, but /dev/infiniband is not there: in a container, "
            "`docker run --device=/dev/infiniband`; else `modprobe ib_uverbs`",
            fmt::join(in_kernel, ", "));
    } else if (!in_kernel.empty()) {
        advice = fmt::format(
            "the kernel has {}, but libibverbs no driver for it: install "
            "ibverbs-providers (Debian) or libibverbs (Fedora)",
            fmt::join(in_kernel, ", "));
    }
    findings.push_back({Severity::error, kDeviceTopic, facts.rdma.why_none, std::move(advice)});
}

// What libibverbs leaves out without a word: a container may have been given some devices only.
void examine_hidden(const Facts& facts, std::vector<Finding>& findings) {
    for (const std::string& name : list_folder(facts.roots.sys + "/class/infiniband")) {
        const auto names_it = [&name](const std::string& trouble) {
            return trouble.find(name) != std::string::npos;
        };
        const auto is_it = [&name](const Device& device) { return device.name == name; };
        const auto& known = facts.rdma.devices;
        const auto& trouble = facts.rdma.trouble;
        if (std::any_of(known.begin(), known.end(), is_it)) continue;
        if (std::any_of(trouble.begin(), trouble.end(), names_it)) continue;
        findings.push_back({Severity::warning, kDeviceTopic,
                            fmt::format("the kernel has {}, but libibverbs does not show it", name),
                            "is its driver's library installed, and its /dev/infiniband/uverbs* "
                            "here? In a container: `docker run --device=/dev/infiniband`"});
    }
}

void examine_device(const Facts& facts, const Device& device, std::vector<Finding>& findings) {
    const std::string where =
        device.software()
            ? std::string("software, at the CPU's cost")
            : fmt::format("at {}{}", device.pci,
                          device.numa_node < 0 ? std::string()
                                               : fmt::format(", NUMA node {}", device.numa_node));
    const auto dmabuf = facts.rdma.dmabuf.find(device.name);
    const bool registers_dmabuf = dmabuf != facts.rdma.dmabuf.end() && dmabuf->second;
    findings.push_back(
        {Severity::ok, kDeviceTopic,
         fmt::format("{}: {}; firmware {}; {} reads at once; on-demand paging: {}; dmabuf: {}",
                     device.name, where, device.firmware.empty() ? "unknown" : device.firmware,
                     device.read_depth, device.on_demand_paging ? "yes" : "no",
                     registers_dmabuf ? "yes" : "no"),
         ""});
    if (device.software()) return;
    const std::string mode =
        read_text(facts.roots.sys + "/bus/pci/devices/" + device.pci + "/iommu_group/type");
    if (mode.rfind("DMA", 0) == 0) {
        findings.push_back(
            {Severity::note, kDeviceTopic,
             fmt::format("{}: the IOMMU translates its accesses ({}), which can "
                         "slow them, those to GPUs most",
                         device.name, mode),
             "boot with iommu=pt, unless the host gives devices to virtual machines"});
    }
}

// True if peers can read through this port.
bool examine_link(const Device& device, const Port& port, std::vector<Finding>& findings) {
    const std::string name = name_of(device, port);
    if (!port.active) {
        const bool waits = port.state == "initializing";
        const std::string netdev = port.gids.empty() ? "NETDEV" : port.gids.front().netdev;
        findings.push_back(
            {Severity::warning, kDeviceTopic, fmt::format("{} is {}", name, port.state),
             waits ? std::string("a subnet manager must configure it: is opensm running?")
             : port.link_layer == LinkLayer::ethernet
                 ? fmt::format("is the cable in, and the interface up (`ip link set {} up`)?",
                               netdev)
                 : std::string("is the cable in?")});
        return false;
    }
    findings.push_back(
        {Severity::ok, kDeviceTopic,
         fmt::format("{} is active: {}, {}, MTU {}", name, verbs::to_string(port.link_layer),
                     port.rate == 0
                         ? std::string("of unknown rate")
                         : fmt::format("{:g} Gbit/s", static_cast<double>(port.rate) * 8 / 1e9),
                     port.mtu),
         ""});
    if (port.mtu < port.mtu_max) {
        findings.push_back(
            {Severity::warning, kDeviceTopic,
             fmt::format("{}: packets have {} bytes where {} are possible", name, port.mtu,
                         port.mtu_max),
             port.link_layer == LinkLayer::ethernet
                 ? "give the interface and the switches a larger MTU: `ip link set NETDEV mtu 9000`"
                 : "give the partition a larger MTU in the subnet manager"});
    }
    return true;
}

bool examine_gid(const Device& device, const Port& port, std::vector<Finding>& findings) {
    const std::string name = name_of(device, port);
    const auto choice = verbs::choose_gid(port, std::nullopt, std::nullopt);
    if (!choice) {
        findings.push_back({Severity::warning, kDeviceTopic,
                            device.name + ", " + choice.error().message,
                            "give its network interface an address (`ip addr add`)"});
        return port.link_layer == LinkLayer::infiniband && port.lid != 0;
    }
    const Gid& gid = choice.value().gid;
    findings.push_back({Severity::ok, kDeviceTopic,
                        fmt::format("{} uses GID {}, {}: {}", name, gid.index,
                                    verbs::format_gid(gid.bytes), choice.value().reason),
                        ""});
    if (port.link_layer != LinkLayer::ethernet) return true;
    if (gid.type == GidType::roce_v1) {
        findings.push_back({Severity::warning, kDeviceTopic,
                            name + " has RoCE v1 only, which no router passes on",
                            "is RoCE v2 off in the driver or the firmware?"});
    } else if (verbs::is_link_local(gid.bytes)) {
        findings.push_back({Severity::warning, kDeviceTopic,
                            name + " has link-local addresses only: peers beyond its link cannot "
                                   "reach it",
                            fmt::format("`ip addr add ADDRESS dev {}`",
                                        gid.netdev.empty() ? "NETDEV" : gid.netdev)});
    }
    return true;
}

// What the port has counted since its driver was loaded.
void examine_counters(const Facts& facts, const Device& device, const Port& port,
                      std::vector<Finding>& findings) {
    const std::string folder = fmt::format("{}/class/infiniband/{}/ports/{}/hw_counters/",
                                           facts.roots.sys, device.name, port.number);
    const auto count = [&folder](std::initializer_list<const char*> names) {
        std::vector<std::string> found;
        for (const char* name : names) {
            const auto value = read_number(folder + name);
            if (value && *value != 0) found.push_back(fmt::format("{} {}", name, *value));
        }
        return found;
    };
    if (!exists(folder)) return;
    const auto lost = count({"out_of_sequence", "packet_seq_err", "local_ack_timeout_err",
                             "roce_adp_retrans", "rnr_nak_retry_err"});
    const auto congestion = count({"np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"});
    const std::string name = name_of(device, port);
    if (!lost.empty()) {
        findings.push_back(
            {Severity::note, kDeviceTopic,
             fmt::format("{} has lost or repeated packets: {}", name, fmt::join(lost, ", ")),
             "if these numbers grow while weights move, the network drops packets: "
             "configure PFC or ECN on the switches"});
    }
    if (!congestion.empty()) {
        findings.push_back({Severity::ok, kDeviceTopic,
                            fmt::format("{} has met congestion and slowed down for it: {}", name,
                                        fmt::join(congestion, ", ")),
                            ""});
    }
}

}  // namespace

void examine_devices(const Facts& facts, std::vector<Finding>& findings) {
    for (const std::string& trouble : facts.rdma.trouble) {
        findings.push_back({Severity::warning, kDeviceTopic, trouble,
                            "may this user open /dev/infiniband/uverbs*? In a container: `docker "
                            "run --device=/dev/infiniband`"});
    }
    if (facts.rdma.devices.empty() && facts.rdma.trouble.empty()) {
        examine_absence(facts, findings);
        return;
    }
    examine_hidden(facts, findings);
    bool usable = false;
    for (const Device& device : facts.rdma.devices) {
        examine_device(facts, device, findings);
        for (const Port& port : device.ports) {
            if (!examine_link(device, port, findings)) continue;
            usable = examine_gid(device, port, findings) || usable;
            examine_counters(facts, device, port, findings);
        }
    }
    if (!usable) {
        findings.push_back(
            {Severity::error, kDeviceTopic, "no port of an RDMA device can be used", ""});
    }
    if (!exists(facts.roots.dev + "/infiniband/rdma_cm")) {
        findings.push_back({Severity::warning, kDeviceTopic,
                            "/dev/infiniband/rdma_cm is not there: librdmacm cannot connect",
                            "`modprobe rdma_ucm`; in a container: `docker run "
                            "--device=/dev/infiniband`"});
    }
}

}  // namespace weightcast::transport::doctor
