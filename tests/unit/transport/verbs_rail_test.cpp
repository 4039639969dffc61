// Goal: the ports that a process uses are those that it was told, or those that fit where it
// listens; and a port that cannot be used never stops the others. Method: made-up hosts.
#include <string>
#include <vector>

#include "tests/kit/catch.h"
#include "transport/verbs/rail.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {
namespace {

GidBytes ipv4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) {
    GidBytes gid{};
    gid[10] = gid[11] = std::byte{0xFF};
    gid[12] = static_cast<std::byte>(a);
    gid[13] = static_cast<std::byte>(b);
    gid[14] = static_cast<std::byte>(c);
    gid[15] = static_cast<std::byte>(d);
    return gid;
}

GidBytes link_local(std::uint8_t last) {
    GidBytes gid{};
    gid[0] = std::byte{0xFE};
    gid[1] = std::byte{0x80};
    gid[15] = static_cast<std::byte>(last);
    return gid;
}

Port roce_port(std::uint8_t number, std::vector<GidBytes> gids, bool active = true) {
    Port port;
    port.number = number;
    port.active = active;
    port.state = active ? "active" : "down";
    port.link_layer = LinkLayer::ethernet;
    port.rate = 12'500'000'000;
    for (const GidBytes& bytes : gids) {
        port.gids.push_back({static_cast<std::uint32_t>(port.gids.size()), bytes, GidType::roce_v2,
                             "eth" + std::to_string(number)});
    }
    return port;
}

Device device(const std::string& name, std::vector<Port> ports) {
    Device made;
    made.name = name;
    made.pci = "0000:01:00.0";
    made.read_depth = 16;
    made.serve_depth = 16;
    made.ports = std::move(ports);
    return made;
}

std::optional<SocketAddress> no_ipoib(const GidBytes&) { return std::nullopt; }

std::vector<Device> two_devices() {
    return {device("mlx5_0", {roce_port(1, {link_local(1), ipv4(10, 0, 0, 1)})}),
            device("mlx5_1", {roce_port(1, {link_local(2), ipv4(10, 0, 1, 1)})})};
}

std::vector<std::string> names_of(const RailPlan& plan) {
    std::vector<std::string> names;
    for (const RailChoice& rail : plan.rails) names.push_back(rail.name());
    return names;
}

TEST_CASE("the port with the address that is listened on is used") {
    const auto plan = choose_rails(two_devices(), {}, "10.0.1.1:0", no_ipoib);
    REQUIRE_OK(plan);
    REQUIRE(names_of(plan.value()) == std::vector<std::string>{"mlx5_1:1"});
    const RailChoice& rail = plan.value().rails[0];
    CHECK(rail.gid.index == 1);
    REQUIRE(rail.ip);
    CHECK(format_address(*rail.ip) == "10.0.1.1:0");
    CHECK(rail.read_depth == 16);
    CHECK(!rail.reason.empty());
}

TEST_CASE("loopback belongs to no device") {
    const auto plan = choose_rails(two_devices(), {}, "127.0.0.1", no_ipoib);
    REQUIRE(plan.has_error());
    CHECK(plan.error().code == Code::unavailable);
    CHECK(plan.error().message.find("127.0.0.1") != std::string::npos);
}

TEST_CASE("listening everywhere uses every active port with an address of its own") {
    auto devices = two_devices();
    devices.push_back(device("mlx5_2", {roce_port(1, {ipv4(10, 0, 2, 1)}, false)}));
    devices.push_back(device("mlx5_3", {roce_port(1, {link_local(4)})}));
    const auto plan = choose_rails(devices, {}, "0.0.0.0", no_ipoib);
    REQUIRE_OK(plan);
    CHECK(names_of(plan.value()) == std::vector<std::string>{"mlx5_0:1", "mlx5_1:1"});
    REQUIRE(plan.value().left_out.size() == 2);
    CHECK(plan.value().left_out[0].find("mlx5_2:1 is down") != std::string::npos);
    CHECK(plan.value().left_out[1].find("mlx5_3:1") != std::string::npos);
}

TEST_CASE("named devices are used wherever is listened, in the order of their names") {
    const std::vector<std::string> names = {"mlx5_1", "mlx5_0:1@0"};
    const auto plan = choose_rails(two_devices(), names, "127.0.0.1", no_ipoib);
    REQUIRE_OK(plan);
    CHECK(names_of(plan.value()) == std::vector<std::string>{"mlx5_1:1", "mlx5_0:1"});
    CHECK(plan.value().rails[0].gid.index == 1);
    CHECK(!plan.value().rails[0].gid_fixed);
    CHECK(plan.value().rails[1].gid.index == 0);
    CHECK(plan.value().rails[1].gid_fixed);
    // A link-local address has no scope, so librdmacm cannot bind it.
    CHECK(!plan.value().rails[1].ip);
}

TEST_CASE("a dead port is left out, and only all of them dead is an error") {
    auto devices = two_devices();
    devices[0].ports[0].active = false;
    devices[0].ports[0].state = "down";
    const std::vector<std::string> both = {"mlx5_0", "mlx5_1"};
    const auto plan = choose_rails(devices, both, "127.0.0.1", no_ipoib);
    REQUIRE_OK(plan);
    CHECK(names_of(plan.value()) == std::vector<std::string>{"mlx5_1:1"});
    CHECK(plan.value().left_out.size() == 1);
    const std::vector<std::string> dead = {"mlx5_0"};
    const auto none = choose_rails(devices, dead, "127.0.0.1", no_ipoib);
    REQUIRE(none.has_error());
    CHECK(none.error().code == Code::unavailable);
    CHECK(none.error().message.find("mlx5_0:1 is down") != std::string::npos);
}

TEST_CASE("a name that fits nothing says what there is") {
    const std::vector<std::string> names = {"mlx4_0"};
    const auto plan = choose_rails(two_devices(), names, "127.0.0.1", no_ipoib);
    REQUIRE(plan.has_error());
    CHECK(plan.error().code == Code::not_found);
    CHECK(plan.error().message.find("mlx4_0") != std::string::npos);
    CHECK(plan.error().message.find("mlx5_0, mlx5_1") != std::string::npos);
    const std::vector<std::string> port = {"mlx5_0:2"};
    CHECK(choose_rails(two_devices(), port, "127.0.0.1", no_ipoib).error().code == Code::not_found);
    const std::vector<std::string> gid = {"mlx5_0@9"};
    CHECK(choose_rails(two_devices(), gid, "127.0.0.1", no_ipoib).has_error());
}

TEST_CASE("no more rails are used than a key has room for") {
    std::vector<Device> devices;
    for (std::uint8_t i = 0; i < kRailsMax + 2; ++i) {
        devices.push_back(device("mlx5_" + std::to_string(i), {roce_port(1, {ipv4(10, 0, i, 1)})}));
    }
    const auto plan = choose_rails(devices, {}, "0.0.0.0", no_ipoib);
    REQUIRE_OK(plan);
    CHECK(plan.value().rails.size() == kRailsMax);
    CHECK(plan.value().left_out.size() == 2);
}

TEST_CASE("an InfiniBand port has the address of the IP interface on top of it") {
    Port port;
    port.active = true;
    port.state = "active";
    port.link_layer = LinkLayer::infiniband;
    port.lid = 17;
    port.gids.push_back({0, link_local(9), GidType::infiniband, ""});
    const std::vector<Device> devices = {device("mlx5_0", {port})};
    const IpoibLookup ipoib = [](const GidBytes&) -> std::optional<SocketAddress> {
        return parse_address("192.168.7.1").value();
    };
    const auto plan = choose_rails(devices, {}, "192.168.7.1", ipoib);
    REQUIRE_OK(plan);
    REQUIRE(plan.value().rails.size() == 1);
    REQUIRE(plan.value().rails[0].ip);
    CHECK(format_address(*plan.value().rails[0].ip) == "192.168.7.1:0");
    const auto without = choose_rails(devices, {}, "0.0.0.0", no_ipoib);
    REQUIRE_OK(without);
    CHECK(!without.value().rails[0].ip);
}

}  // namespace
}  // namespace weightcast::transport::verbs
