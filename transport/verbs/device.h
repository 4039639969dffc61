// RDMA devices of this host: what is there, which of their addresses to use, and how near they are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::transport::verbs {

using GidBytes = std::array<std::byte, 16>;

enum class GidType : std::uint8_t { infiniband, roce_v1, roce_v2 };
enum class LinkLayer : std::uint8_t { infiniband, ethernet, other };

struct Gid {
    std::uint32_t index = 0;  // in the port's table
    GidBytes bytes{};
    GidType type = GidType::infiniband;
    std::string netdev;  // network interface it belongs to; empty if none
};

struct Port {
    std::uint8_t number = 1;
    bool active = false;
    std::string state;  // e.g. "active", "down"
    LinkLayer link_layer = LinkLayer::other;
    std::uint64_t rate = 0;  // bytes/s of the link, as the driver says
    std::uint32_t mtu = 0;   // active, bytes
    std::uint32_t mtu_max = 0;
    std::uint16_t lid = 0;
    std::vector<Gid> gids;  // valid entries, by index
};

struct Device {
    std::string name;  // e.g. "mlx5_0"
    std::string firmware;
    std::string pci;      // e.g. "0000:3b:00.0"; empty: software, no hardware behind it
    int numa_node = -1;   // -1: unknown or not bound
    int read_depth = 0;   // READs that a queue pair can have outstanding as their initiator
    int serve_depth = 0;  // and as their target
    std::uint64_t region_bytes_max = 0;
    bool on_demand_paging = false;
    std::vector<Port> ports;

    bool software() const { return pci.empty(); }
};

const char* to_string(LinkLayer layer) noexcept;
const char* to_string(GidType type) noexcept;
// An IPv4-mapped address as "10.0.0.1", any other as IPv6.
std::string format_gid(const GidBytes& gid);
bool is_ipv4_mapped(const GidBytes& gid);
bool is_link_local(const GidBytes& gid);

// What every host can be asked, without rdma-core. Error{unavailable}: the kernel has no device.
Result<void> has_devices();

// All devices, by name. A device that cannot be opened or asked is left out, and why is appended
// to `trouble`. Errors: unavailable (the kernel has no RDMA, there is no rdma-core, or it
// finds no driver).
Result<std::vector<Device>> list_devices(std::vector<std::string>& trouble);

// Which port to use: NAME, NAME:PORT, NAME@GID or NAME:PORT@GID, e.g. "mlx5_0:1@3".
struct DeviceName {
    std::string device;
    std::optional<std::uint8_t> port;
    std::optional<std::uint32_t> gid_index;

    // Errors: invalid_input.
    static Result<DeviceName> parse(std::string_view text);
};

struct GidChoice {
    Gid gid;
    std::string reason;
};

// The entry of a port's table to use: `index` if it is given; the one with the address `wanted`
// (16 bytes, IPv4 mapped) if that is given; else RoCE v2 before v1, routable before link-local,
// IPv4 before IPv6, an interface's own address before one without an interface, the lowest index.
// Errors: not_found, naming the port and what was looked for.
Result<GidChoice> choose_gid(const Port& port, std::optional<std::uint32_t> index,
                             std::optional<GidBytes> wanted);

// How far two PCI devices are apart.
enum class PciDistance : std::uint8_t {
    same_switch,  // below one PCIe switch
    same_root,    // below one root complex
    same_node,    // of one NUMA node
    other_node,
    unknown,
};
const char* to_string(PciDistance distance) noexcept;

// Of two PCI addresses, as sysfs (mounted at `sysfs`) tells.
PciDistance pci_distance(const std::string& a, const std::string& b,
                         const std::string& sysfs = "/sys");

}  // namespace weightcast::transport::verbs
