// Goal: what a user writes names the device that is meant, the GID that is chosen is the best one
// for a stated reason, and PCI distances are those of sysfs. Method: made-up tables and trees.
#include <filesystem>

#include "tests/kit/catch.h"
#include "tests/kit/scratch.h"
#include "transport/verbs/device.h"

namespace {

using namespace weightcast;
using namespace weightcast::transport::verbs;

GidBytes ipv4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) {
    GidBytes gid{};
    gid[10] = gid[11] = std::byte{0xff};
    gid[12] = std::byte{a};
    gid[13] = std::byte{b};
    gid[14] = std::byte{c};
    gid[15] = std::byte{d};
    return gid;
}

GidBytes ipv6(std::uint8_t first, std::uint8_t second, std::uint8_t last) {
    GidBytes gid{};
    gid[0] = std::byte{first};
    gid[1] = std::byte{second};
    gid[15] = std::byte{last};
    return gid;
}

const GidBytes kLinkLocal = ipv6(0xfe, 0x80, 1);
const GidBytes kGlobal = ipv6(0x20, 0x01, 1);
const GidBytes kV4 = ipv4(10, 0, 0, 1);

// Entries in the order that a RoCE driver makes them.
Port roce_port() {
    Port port;
    port.link_layer = LinkLayer::ethernet;
    port.gids = {{0, kLinkLocal, GidType::roce_v1, "eth0"},
                 {1, kLinkLocal, GidType::roce_v2, "eth0"},
                 {2, kV4, GidType::roce_v1, "eth0"},
                 {3, kV4, GidType::roce_v2, "eth0"},
                 {4, kGlobal, GidType::roce_v2, "eth0"},
                 {5, ipv4(10, 0, 0, 2), GidType::roce_v2, "eth0.7"}};
    return port;
}

std::uint32_t chosen(const Port& port) {
    const auto choice = choose_gid(port, std::nullopt, std::nullopt);
    return choice ? choice.value().gid.index : 999;
}

// A sysfs with two root complexes, a switch below the first, and nodes.
struct Sysfs {
    kit::Scratch root;
    static constexpr const char* kSwitched = "devices/pci0000:00/0000:00:01.0/0000:01:00.0/";

    Sysfs() {
        add(std::string(kSwitched) + "0000:02:00.0/0000:03:00.0", 0);
        add(std::string(kSwitched) + "0000:02:01.0/0000:04:00.0", 0);
        add("devices/pci0000:00/0000:00:02.0/0000:05:00.0", 0);
        add("devices/pci0000:40/0000:40:01.0/0000:41:00.0", 0);
        add("devices/pci0000:80/0000:80:01.0/0000:81:00.0", 1);
        add("devices/pci0000:c0/0000:c0:01.0/0000:c1:00.0", -1);
        add("devices/pci10000:00/10000:00:01.0/10000:01:00.1", 0);
    }
    void add(const std::string& device, int node) {
        root.write(device + "/numa_node", std::to_string(node) + "\n");
        const std::filesystem::path link =
            root.path("bus/pci/devices/" + device.substr(device.rfind('/') + 1));
        std::filesystem::create_directories(link.parent_path());
        std::filesystem::create_symlink(root.path(device), link);
    }
    PciDistance distance(const std::string& a, const std::string& b) const {
        return pci_distance(a, b, root.path(""));
    }
};

}  // namespace

TEST_CASE("a device's name has a port and a GID if they are given") {
    const auto full = DeviceName::parse("mlx5_0:2@17");
    REQUIRE_OK(full);
    CHECK(full.value().device == "mlx5_0");
    CHECK(full.value().port == 2);
    CHECK(full.value().gid_index == 17U);

    const auto bare = DeviceName::parse("rocep1s0f0-a.b");
    REQUIRE_OK(bare);
    CHECK(bare.value().device == "rocep1s0f0-a.b");
    CHECK_FALSE(bare.value().port.has_value());
    CHECK_FALSE(bare.value().gid_index.has_value());

    CHECK(DeviceName::parse("a@0").value().gid_index == 0U);
    CHECK(DeviceName::parse("a:255").value().port == 255);
}

TEST_CASE("a malformed device's name is refused with the text in the message") {
    for (const std::string text :
         {"",      ":1",    "@1",    "a:",  "a:0",  "a:256", "a:-1",
          "a:+1",  "a: 1",  "a:1x",  "a@",  "a@x",  "a@-1",  "a@4294967296",
          "a@1:1", "a:1:1", "a@1@1", "a/b", "../a", "a b",   "a\n"}) {
        INFO(text);
        const auto parsed = DeviceName::parse(text);
        REQUIRE(!parsed);
        CHECK(parsed.error().code == Code::invalid_input);
        CHECK(parsed.error().message.find('"' + text + '"') != std::string::npos);
    }
    CHECK(DeviceName::parse(std::string(63, 'a')).has_value());
    CHECK(!DeviceName::parse(std::string(64, 'a')));
}

TEST_CASE("a GID is written as the address it stands for") {
    CHECK(format_gid(kV4) == "10.0.0.1");
    CHECK(format_gid(kLinkLocal) == "fe80::1");
    CHECK(format_gid(kGlobal) == "2001::1");
    CHECK(format_gid(GidBytes{}) == "::");
    CHECK(is_ipv4_mapped(kV4));
    CHECK_FALSE(is_ipv4_mapped(GidBytes{}));
    CHECK(is_link_local(kLinkLocal));
    CHECK(is_link_local(ipv6(0xfe, 0xbf, 1)));
    CHECK_FALSE(is_link_local(ipv6(0xfe, 0xc0, 1)));
    CHECK(is_link_local(ipv4(169, 254, 1, 1)));
    CHECK_FALSE(is_link_local(kV4));
}

TEST_CASE("without a wish the best GID is chosen, criterion by criterion") {
    Port port = roce_port();
    CHECK(chosen(port) == 3);  // version 2, routable, IPv4, an interface, lowest index

    port.gids = {{0, kV4, GidType::roce_v1, "e"}, {1, kLinkLocal, GidType::roce_v2, ""}};
    CHECK(chosen(port) == 1);  // the version goes before all else
    port.gids = {{0, ipv4(169, 254, 0, 1), GidType::roce_v2, "e"},
                 {1, kGlobal, GidType::roce_v2, ""}};
    CHECK(chosen(port) == 1);  // routable goes before IPv4
    port.gids = {{0, kGlobal, GidType::roce_v2, "e"}, {1, kV4, GidType::roce_v2, ""}};
    CHECK(chosen(port) == 1);  // IPv4 goes before an interface
    port.gids = {{0, kV4, GidType::roce_v2, ""}, {1, kV4, GidType::roce_v2, "e"}};
    CHECK(chosen(port) == 1);
    port.gids = {{7, kV4, GidType::roce_v2, "e"}, {5, kV4, GidType::roce_v2, "e"}};
    CHECK(chosen(port) == 5);
    port.gids = {{0, kLinkLocal, GidType::infiniband, ""}};
    CHECK(chosen(port) == 0);
}

TEST_CASE("a wanted index or address is found, and the reason says so") {
    const Port port = roce_port();
    const auto named = choose_gid(port, 2, std::nullopt);
    REQUIRE_OK(named);
    CHECK(named.value().gid.index == 2);
    CHECK(named.value().reason == "it was named: RoCE v1, IPv4, of eth0");

    const auto addressed = choose_gid(port, std::nullopt, kV4);
    REQUIRE_OK(addressed);
    CHECK(addressed.value().gid.index == 3);  // of two with that address, the better one
    CHECK(addressed.value().reason == "it has the wanted address: RoCE v2, IPv4, of eth0");
    CHECK(choose_gid(port, 4, kV4).value().gid.index == 4);

    CHECK(choose_gid(port, std::nullopt, std::nullopt).value().reason ==
          "it is the best of the table: RoCE v2, IPv4, of eth0");
    Port one;
    one.gids = {{0, kLinkLocal, GidType::infiniband, ""}};
    CHECK(choose_gid(one, std::nullopt, std::nullopt).value().reason ==
          "it is the only one: InfiniBand, link-local IPv6, of no interface");
}

TEST_CASE("a missing GID is an error that shows the table") {
    const Port port = roce_port();
    const auto by_index = choose_gid(port, 9, std::nullopt);
    REQUIRE(!by_index);
    CHECK(by_index.error().code == Code::not_found);
    CHECK(by_index.error().message.find("port 1 has no valid GID 9") == 0);
    CHECK(by_index.error().message.find("3 10.0.0.1 RoCE v2") != std::string::npos);
    const auto by_address = choose_gid(port, std::nullopt, ipv4(10, 0, 0, 9));
    REQUIRE(!by_address);
    CHECK(by_address.error().message.find("no GID 10.0.0.9") != std::string::npos);
    const auto empty = choose_gid(Port(), std::nullopt, std::nullopt);
    REQUIRE(!empty);
    CHECK(empty.error().message == "port 1 has no GID: its table is empty");
}

TEST_CASE("PCI distance is told from where the paths part") {
    const Sysfs sysfs;
    CHECK(sysfs.distance("0000:03:00.0", "0000:04:00.0") == PciDistance::same_switch);
    CHECK(sysfs.distance("0000:03:00.0", "0000:03:00.0") == PciDistance::same_switch);
    CHECK(sysfs.distance("0000:03:00.0", "0000:05:00.0") == PciDistance::same_root);
    CHECK(sysfs.distance("0000:03:00.0", "0000:41:00.0") == PciDistance::same_node);
    CHECK(sysfs.distance("0000:03:00.0", "0000:81:00.0") == PciDistance::other_node);
    CHECK(sysfs.distance("0000:03:00.0", "0000:C1:00.0") == PciDistance::unknown);
    CHECK(sysfs.distance("0000:03:00.0", "10000:01:00.1") == PciDistance::same_node);
    CHECK(sysfs.distance("0000:03:00.0", "0000:77:00.0") == PciDistance::unknown);
    CHECK(sysfs.distance("0000:03:00.0", "") == PciDistance::unknown);
    CHECK(sysfs.distance("../../..", "0000:03:00.0") == PciDistance::unknown);
}
