#include "transport/verbs/device.h"

#include <fmt/core.h>
#include <infiniband/verbs.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

#include "base/freer.h"
#include "transport/verbs/handles.h"
#include "transport/verbs/load_rdma.h"

namespace weightcast::transport::verbs {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kGidsMax = 16384;  // of a device; the largest table seen has 255 a port
// What rxe and siw call their vendor. They may name their network card's PCI device as their own.
constexpr std::uint32_t kVendorRxe = 0xffffff;
constexpr std::uint32_t kVendorSiw = 0x626d74;

using DeviceList = std::unique_ptr<::ibv_device*[], Freer<::ibv_free_device_list>>;

// The PCI device that a sysfs path leads to or lies below (a subfunction does); empty if none.
fs::path pci_device_of(const fs::path& link) {
    std::error_code failure;
    fs::path device = fs::canonical(link, failure);
    while (!failure && device.has_relative_path()) {
        std::error_code none;
        if (fs::read_symlink(device / "subsystem", none).filename() == "pci") return device;
        device = device.parent_path();
    }
    return {};
}

std::uint32_t mtu_bytes(::ibv_mtu mtu) {
    const int power = static_cast<int>(mtu);
    return power >= 1 && power <= 5 ? 128U << static_cast<unsigned>(power) : 0;
}

const char* state_name(::ibv_port_state state) {
    // "initializing" lasts on InfiniBand until a subnet manager has configured the port.
    constexpr std::array<const char*, 6> kNames{"unknown", "down",   "initializing",
                                                "armed",   "active", "active, deferred"};
    const auto code = static_cast<std::size_t>(state);
    return kNames[code < kNames.size() ? code : 0];
}

// Newer libraries have a wider field for what does not fit into the old one.
template <typename Attributes>
std::uint32_t speed_code(const Attributes& attributes) {
    if constexpr (requires { attributes.active_speed_ex; }) {
        if (attributes.active_speed_ex != 0) return attributes.active_speed_ex;
    }
    return attributes.active_speed;
}

// Payload of one lane in megabits per second, by the code of its speed. Ethernet drivers mean the
// nominal rate. On InfiniBand the slow ones spend two bits of ten on the line code and FDR two of
// 66; the nominal rates of the others are already without it.
struct LaneRate {
    std::uint32_t code;
    std::uint64_t ethernet, infiniband;
};
constexpr std::array<LaneRate, 9> kLaneRates{{
    {1, 2'500, 2'000},        // SDR
    {2, 5'000, 4'000},        // DDR
    {4, 10'000, 8'000},       // QDR
    {8, 10'000, 10'000},      // FDR10
    {16, 14'000, 13'636},     // FDR
    {32, 25'000, 25'000},     // EDR
    {64, 50'000, 50'000},     // HDR
    {128, 100'000, 100'000},  // NDR
    {256, 200'000, 200'000},  // XDR
}};
struct Width {
    std::uint8_t code;
    std::uint8_t lanes;
};
constexpr std::array<Width, 5> kWidths{{{1, 1}, {2, 4}, {4, 8}, {8, 12}, {16, 2}}};

// Bytes per second; 0 if a code is unknown.
std::uint64_t link_rate(std::uint32_t speed, std::uint8_t width, LinkLayer layer) {
    const auto rate = std::find_if(kLaneRates.begin(), kLaneRates.end(),
                                   [speed](const LaneRate& one) { return one.code == speed; });
    const auto lanes = std::find_if(kWidths.begin(), kWidths.end(),
                                    [width](const Width& one) { return one.code == width; });
    if (rate == kLaneRates.end() || lanes == kWidths.end()) return 0;
    const auto megabits = layer == LinkLayer::infiniband ? rate->infiniband : rate->ethernet;
    return megabits * lanes->lanes * 1'000'000 / 8;
}

LinkLayer link_layer(std::uint8_t code) {
    // Unspecified is what drivers from before Ethernet say.
    if (code == IBV_LINK_LAYER_INFINIBAND || code == IBV_LINK_LAYER_UNSPECIFIED) {
        return LinkLayer::infiniband;
    }
    return code == IBV_LINK_LAYER_ETHERNET ? LinkLayer::ethernet : LinkLayer::other;
}

Port make_port(std::uint8_t number, const ::ibv_port_attr& attributes) {
    Port port;
    port.number = number;
    port.active = attributes.state == IBV_PORT_ACTIVE;
    port.state = state_name(attributes.state);
    port.link_layer = link_layer(attributes.link_layer);
    port.rate = link_rate(speed_code(attributes), attributes.active_width, port.link_layer);
    port.mtu = mtu_bytes(attributes.active_mtu);
    port.mtu_max = mtu_bytes(attributes.max_mtu);
    port.lid = attributes.lid;
    return port;
}

Result<void> read_gids(::ibv_context* context, std::size_t entries_max, Device& device) {
    std::vector<::ibv_gid_entry> entries(std::min(entries_max, kGidsMax));
    if (entries.empty()) return success();
    const ssize_t count = ::ibv_query_gid_table(context, entries.data(), entries.size(), 0);
    if (count < 0) {
        return system_error(Code::io, static_cast<int>(-count),
                            fmt::format("ibv_query_gid_table of {}", device.name));
    }
    entries.resize(static_cast<std::size_t>(count));
    for (const ::ibv_gid_entry& entry : entries) {
        const auto port =
            std::find_if(device.ports.begin(), device.ports.end(),
                         [&entry](const Port& one) { return one.number == entry.port_num; });
        if (port == device.ports.end()) continue;
        Gid gid;
        gid.index = entry.gid_index;
        std::memcpy(gid.bytes.data(), entry.gid.raw, gid.bytes.size());
        gid.type = entry.gid_type == IBV_GID_TYPE_ROCE_V2   ? GidType::roce_v2
                   : entry.gid_type == IBV_GID_TYPE_ROCE_V1 ? GidType::roce_v1
                                                            : GidType::infiniband;
        std::array<char, IF_NAMESIZE> name{};
        if (::if_indextoname(entry.ndev_ifindex, name.data()) != nullptr) gid.netdev = name.data();
        port->gids.push_back(std::move(gid));
    }
    for (Port& port : device.ports) {
        std::sort(port.gids.begin(), port.gids.end(),
                  [](const Gid& one, const Gid& other) { return one.index < other.index; });
    }
    return success();
}

Result<Device> read_device(::ibv_device* handle) {
    Device device;
    device.name = ::ibv_get_device_name(handle);
    const ContextHandle context(::ibv_open_device(handle));
    if (!context) {
        return system_error(Code::unavailable, errno, "ibv_open_device of " + device.name);
    }
    ::ibv_device_attr_ex attributes{};
    if (const int failed = ::ibv_query_device_ex(context.get(), nullptr, &attributes)) {
        return system_error(Code::io, failed, "ibv_query_device_ex of " + device.name);
    }
    const ::ibv_device_attr& basic = attributes.orig_attr;
    device.firmware = basic.fw_ver;
    device.read_depth = basic.max_qp_init_rd_atom;
    device.serve_depth = basic.max_qp_rd_atom;
    device.region_bytes_max = basic.max_mr_size;
    const std::uint64_t reads = attributes.odp_caps.per_transport_caps.rc_odp_caps;
    device.on_demand_paging =
        (attributes.odp_caps.general_caps & static_cast<std::uint64_t>(IBV_ODP_SUPPORT)) != 0 &&
        (reads & static_cast<std::uint64_t>(IBV_ODP_SUPPORT_READ)) != 0;
    if (basic.vendor_id != kVendorRxe && basic.vendor_id != kVendorSiw) {
        const fs::path pci = pci_device_of(fs::path(handle->ibdev_path) / "device");
        device.pci = pci.filename().string();
        if (int node = -1; std::ifstream(pci / "numa_node") >> node) device.numa_node = node;
    }
    std::size_t gids_max = 0;
    for (std::uint8_t number = 1; number <= basic.phys_port_cnt; ++number) {
        ::ibv_port_attr port{};
        if (const int failed = ::ibv_query_port(context.get(), number, &port)) {
            return system_error(Code::io, failed,
                                fmt::format("ibv_query_port of {}:{}", device.name, number));
        }
        device.ports.push_back(make_port(number, port));
        gids_max += static_cast<std::size_t>(std::max(port.gid_tbl_len, 0));
        if (number == 255) break;
    }
    WEIGHTCAST_CHECK(read_gids(context.get(), gids_max, device));
    return device;
}

}  // namespace

Result<void> has_devices() {
    constexpr const char* kClass = "/sys/class/infiniband";
    std::error_code failure;
    const bool none = fs::is_empty(kClass, failure);
    // Whatever else is wrong with it, libibverbs may know better.
    if (!none && failure != std::errc::no_such_file_or_directory) return success();
    return Error{Code::unavailable, 0, fmt::format("the kernel has no RDMA device ({})", kClass)};
}

Result<std::vector<Device>> list_devices(std::vector<std::string>& trouble) {
    WEIGHTCAST_CHECK(load_rdma());
    int count = 0;
    const DeviceList list(::ibv_get_device_list(&count));
    if (!list) {
        return system_error(Code::unavailable, errno,
                            "the kernel offers no RDMA (ibv_get_device_list)");
    }
    if (count == 0) {
        return Error{Code::unavailable, 0, "there is no RDMA device that libibverbs can drive"};
    }
    std::vector<Device> devices;
    for (int i = 0; i < count; ++i) {
        auto device = read_device(list[static_cast<std::size_t>(i)]);
        if (device) {
            devices.push_back(std::move(device).value());
        } else {
            trouble.push_back(std::move(device).error().message);
        }
    }
    std::sort(devices.begin(), devices.end(),
              [](const Device& one, const Device& other) { return one.name < other.name; });
    return devices;
}

}  // namespace weightcast::transport::verbs
