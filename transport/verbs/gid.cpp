// What of device.h needs no library.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <tuple>

#include "transport/verbs/device.h"

namespace weightcast::transport::verbs {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kNameCharactersMax = 63;  // of a device, as the kernel has it
constexpr std::size_t kPrefixBytes = 12;  // of an IPv4-mapped address, before the IPv4 address

std::uint8_t byte_at(const GidBytes& gid, std::size_t at) {
    return std::to_integer<std::uint8_t>(gid[at]);
}

// The greater, the rather: as choose_gid() says, but for the index.
auto rank(const Gid& gid) {
    return std::tuple(gid.type != GidType::roce_v1, !is_link_local(gid.bytes),
                      is_ipv4_mapped(gid.bytes), !gid.netdev.empty());
}

const Gid* best(const std::vector<const Gid*>& candidates) {
    const auto found = std::max_element(candidates.begin(), candidates.end(),
                                        [](const Gid* one, const Gid* other) {
                                            if (rank(*one) != rank(*other))
                                                return rank(*one) < rank(*other);
                                            return one->index > other->index;
                                        });
    return found == candidates.end() ? nullptr : *found;
}

std::string describe(const Gid& gid) {
    return fmt::format(
        "{}, {}{}{}", to_string(gid.type), is_link_local(gid.bytes) ? "link-local " : "",
        is_ipv4_mapped(gid.bytes) ? "IPv4" : "IPv6",
        gid.netdev.empty() ? std::string(", of no interface") : ", of " + gid.netdev);
}

std::string describe_table(const Port& port) {
    if (port.gids.empty()) return "its table is empty";
    std::vector<std::string> entries;
    for (const Gid& gid : port.gids) {
        entries.push_back(
            fmt::format("{} {} {}", gid.index, format_gid(gid.bytes), to_string(gid.type)));
    }
    constexpr std::size_t kShown = 8;
    const std::size_t left = entries.size() - std::min(entries.size(), kShown);
    entries.resize(entries.size() - left);
    return fmt::format("it has {}{}", fmt::join(entries, "; "),
                       left == 0 ? "" : fmt::format(" and {} more", left));
}

template <typename Integer>
bool parse_number(std::string_view text, Integer& number) {
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    return failure == std::errc() && end == text.data() + text.size();
}

// "0000:3b:00.0"; a domain may have more than four digits.
bool is_pci_address(std::string_view text) {
    const std::size_t domain = text.find(':');
    if (domain == std::string_view::npos || domain < 4 || domain > 8) return false;
    constexpr std::string_view kShape = ":xx:xx.x";
    if (text.size() != domain + kShape.size()) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char expected = i < domain ? 'x' : kShape[i - domain];
        const bool digit = std::isxdigit(static_cast<unsigned char>(text[i])) != 0;
        if (expected == 'x' ? !digit : text[i] != expected) return false;
    }
    return true;
}

std::string lower_case(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

int read_numa_node(const fs::path& pci_device) {
    int node = -1;
    if (!(std::ifstream(pci_device / "numa_node") >> node)) return -1;
    return node;
}

}  // namespace

const char* to_string(LinkLayer layer) noexcept {
    switch (layer) {
        case LinkLayer::infiniband:
            return "InfiniBand";
        case LinkLayer::ethernet:
            return "Ethernet";
        case LinkLayer::other:
            break;
    }
    return "other";
}

const char* to_string(GidType type) noexcept {
    switch (type) {
        case GidType::infiniband:
            return "InfiniBand";
        case GidType::roce_v1:
            return "RoCE v1";
        case GidType::roce_v2:
            return "RoCE v2";
    }
    return "unknown";
}

bool is_ipv4_mapped(const GidBytes& gid) {
    for (std::size_t i = 0; i < kPrefixBytes; ++i) {
        if (byte_at(gid, i) != (i < kPrefixBytes - 2 ? 0x00 : 0xff)) return false;
    }
    return true;
}

bool is_link_local(const GidBytes& gid) {
    if (is_ipv4_mapped(gid)) {
        return byte_at(gid, kPrefixBytes) == 169 && byte_at(gid, kPrefixBytes + 1) == 254;
    }
    return byte_at(gid, 0) == 0xfe && (byte_at(gid, 1) & 0xc0U) == 0x80;
}

std::string format_gid(const GidBytes& gid) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const bool v4 = is_ipv4_mapped(gid);
    ::inet_ntop(v4 ? AF_INET : AF_INET6, gid.data() + (v4 ? kPrefixBytes : 0), text.data(),
                text.size());
    return text.data();
}

Result<GidChoice> choose_gid(const Port& port, std::optional<std::uint32_t> index,
                             std::optional<GidBytes> wanted) {
    std::vector<const Gid*> candidates;
    for (const Gid& gid : port.gids) {
        const bool fits = index ? gid.index == *index : wanted ? gid.bytes == *wanted : true;
        if (fits) candidates.push_back(&gid);
    }
    const Gid* const gid = best(candidates);
    if (gid == nullptr) {
        const std::string sought = index    ? fmt::format("no valid GID {}", *index)
                                   : wanted ? fmt::format("no GID {}", format_gid(*wanted))
                                            : "no GID";
        return Error{Code::not_found, 0,
                     fmt::format("port {} has {}: {}", port.number, sought, describe_table(port))};
    }
    const std::string why = index                   ? "it was named"
                            : wanted                ? "it has the wanted address"
                            : port.gids.size() == 1 ? "it is the only one"
                                                    : "it is the best of the table";
    return GidChoice{*gid, fmt::format("{}: {}", why, describe(*gid))};
}

Result<DeviceName> DeviceName::parse(std::string_view text) {
    const auto refuse = [text](const char* why) {
        return Error{Code::invalid_input, 0,
                     fmt::format("\"{}\" is not NAME[:PORT][@GID]: {}", text, why)};
    };
    DeviceName result;
    std::string_view rest = text;
    if (const auto at = rest.find('@'); at != std::string_view::npos) {
        if (!parse_number(rest.substr(at + 1), result.gid_index.emplace())) {
            return refuse("a GID is named by its index");
        }
        rest = rest.substr(0, at);
    }
    if (const auto colon = rest.find(':'); colon != std::string_view::npos) {
        if (!parse_number(rest.substr(colon + 1), result.port.emplace()) || *result.port == 0) {
            return refuse("a port is a number from 1 to 255");
        }
        rest = rest.substr(0, colon);
    }
    const bool good = std::all_of(rest.begin(), rest.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
    });
    if (rest.empty() || rest.size() > kNameCharactersMax || !good) {
        return refuse("that is no device's name");
    }
    result.device = rest;
    return result;
}

const char* to_string(PciDistance distance) noexcept {
    switch (distance) {
        case PciDistance::same_switch:
            return "same PCIe switch";
        case PciDistance::same_root:
            return "same root complex";
        case PciDistance::same_node:
            return "same NUMA node";
        case PciDistance::other_node:
            return "another NUMA node";
        case PciDistance::unknown:
            break;
    }
    return "unknown distance";
}

PciDistance pci_distance(const std::string& a, const std::string& b, const std::string& sysfs) {
    const fs::path devices = fs::path(sysfs) / "bus/pci/devices";
    if (!is_pci_address(a) || !is_pci_address(b)) return PciDistance::unknown;
    std::error_code failure;
    const fs::path one = fs::canonical(devices / lower_case(a), failure);
    if (failure) return PciDistance::unknown;
    const fs::path other = fs::canonical(devices / lower_case(b), failure);
    if (failure) return PciDistance::unknown;
    // What the two paths share: ".../pci0000:00" is a root complex, an address below it a bridge.
    const auto differ = std::mismatch(one.begin(), one.end(), other.begin(), other.end()).first;
    const bool shares_bridge = std::any_of(
        one.begin(), differ, [](const fs::path& part) { return is_pci_address(part.string()); });
    if (shares_bridge) return PciDistance::same_switch;
    const bool shares_root = std::any_of(one.begin(), differ, [](const fs::path& part) {
        return part.string().rfind("pci", 0) == 0;
    });
    if (shares_root) return PciDistance::same_root;
    const int node = read_numa_node(one);
    const int other_node = read_numa_node(other);
    if (node < 0 || other_node < 0) return PciDistance::unknown;
    return node == other_node ? PciDistance::same_node : PciDistance::other_node;
}

}  // namespace weightcast::transport::verbs
