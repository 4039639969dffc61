#include "transport/verbs/rail.h"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {
namespace {

constexpr std::size_t kProbePageBytes = 4096;

using InterfaceList = std::unique_ptr<::ifaddrs, Freer<::freeifaddrs>>;

std::optional<GidBytes> as_gid(const SocketAddress& address) {
    GidBytes gid{};
    if (address.storage.ss_family == AF_INET) {
        const auto* v4 = reinterpret_cast<const ::sockaddr_in*>(&address.storage);
        gid[10] = gid[11] = std::byte{0xFF};
        std::memcpy(gid.data() + 12, &v4->sin_addr, 4);
    } else {
        const auto* v6 = reinterpret_cast<const ::sockaddr_in6*>(&address.storage);
        std::memcpy(gid.data(), &v6->sin6_addr, 16);
    }
    const bool all = std::ranges::all_of(std::span(gid).subspan(is_ipv4_mapped(gid) ? 12 : 0),
                                         [](std::byte b) { return b == std::byte{0}; });
    if (all) return std::nullopt;  // stands for every address
    return gid;
}

// The address that librdmacm binds for a RoCE GID; none for a link-local one, which lacks a scope.
std::optional<SocketAddress> ip_of_gid(const GidBytes& gid) {
    if (is_link_local(gid)) return std::nullopt;
    auto parsed =
        parse_address(is_ipv4_mapped(gid) ? format_gid(gid) : "[" + format_gid(gid) + "]");
    if (!parsed) return std::nullopt;
    return parsed.value();
}

struct Candidate {
    const Device* device = nullptr;
    const Port* port = nullptr;
    std::optional<std::uint32_t> gid_index;
};

// Why the port cannot be used, or the choice.
Result<RailChoice> choose_port(const Candidate& candidate, std::optional<GidBytes> wanted,
                               IpoibLookup ipoib) {
    const Device& device = *candidate.device;
    const Port& port = *candidate.port;
    if (!port.active) {
        return Error{Code::unavailable, 0,
                     fmt::format("{}:{} is {}", device.name, port.number, port.state)};
    }
    WEIGHTCAST_TRY(GidChoice gid, choose_gid(port, candidate.gid_index, wanted));
    RailChoice choice;
    choice.device = device.name;
    choice.software = device.software();
    choice.read_depth = device.read_depth;
    choice.serve_depth = device.serve_depth;
    choice.port = port;
    choice.port.gids.clear();
    choice.gid_fixed = candidate.gid_index.has_value();
    choice.ip =
        port.link_layer == LinkLayer::infiniband ? ipoib(gid.gid.bytes) : ip_of_gid(gid.gid.bytes);
    choice.gid = std::move(gid.gid);
    choice.reason = std::move(gid.reason);
    return choice;
}

Result<std::vector<Candidate>> find_named(std::span<const Device> devices,
                                          const std::string& text) {
    WEIGHTCAST_TRY(const DeviceName name, DeviceName::parse(text));
    const auto device = std::ranges::find(devices, name.device, &Device::name);
    if (device == devices.end()) {
        std::vector<std::string> known;
        for (const Device& other : devices) known.push_back(other.name);
        return Error{
            Code::not_found, 0,
            fmt::format("there is no RDMA device {}; there are: {}", name.device,
                        known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")))};
    }
    std::vector<Candidate> found;
    for (const Port& port : device->ports) {
        if (name.port && *name.port != port.number) continue;
        found.push_back({&*device, &port, name.gid_index});
    }
    if (found.empty()) {
        return Error{Code::not_found, 0, fmt::format("{} has no port {}", name.device, *name.port)};
    }
    return found;
}

bool has_gid(const Port& port, const GidBytes& wanted) {
    return std::ranges::find(port.gids, wanted, &Gid::bytes) != port.gids.end();
}

// An IP interface on top of an InfiniBand port counts as the port's.
bool has_address(const Port& port, const GidBytes& wanted, IpoibLookup ipoib) {
    if (port.link_layer != LinkLayer::infiniband) return has_gid(port, wanted);
    return std::ranges::any_of(port.gids, [&](const Gid& gid) {
        const auto ip = ipoib(gid.bytes);
        return ip && as_gid(*ip) == wanted;
    });
}

Error none_usable(const std::string& what, const std::vector<std::string>& left_out) {
    return {Code::unavailable, 0,
            left_out.empty() ? what : fmt::format("{}: {}", what, fmt::join(left_out, "; "))};
}

Error call_error(const RailChoice& choice, const char* call) {
    return system_error(Code::unavailable, errno, fmt::format("{} on {}", call, choice.name()));
}

}  // namespace

Result<RailPlan> choose_rails(std::span<const Device> devices, std::span<const std::string> names,
                              const std::string& listen, IpoibLookup ipoib) {
    WEIGHTCAST_TRY(const SocketAddress address, parse_address(listen));
    const std::optional<GidBytes> wanted = as_gid(address);
    RailPlan plan;
    std::vector<Candidate> candidates;
    for (const std::string& name : names) {
        WEIGHTCAST_TRY(const auto found, find_named(devices, name));
        candidates.insert(candidates.end(), found.begin(), found.end());
    }
    for (const Device& device : devices) {
        if (!names.empty()) break;
        for (const Port& port : device.ports) {
            if (wanted && !has_address(port, *wanted, ipoib)) continue;
            candidates.push_back({&device, &port, std::nullopt});
        }
    }
    if (candidates.empty()) {
        return Error{Code::unavailable, 0,
                     wanted ? fmt::format("no RDMA device has the address {}", listen)
                            : "there is no RDMA device"};
    }
    for (const Candidate& candidate : candidates) {
        // A named port takes its own best address unless it has the one that is listened on.
        const bool here = wanted && has_gid(*candidate.port, *wanted);
        auto choice = choose_port(candidate, here ? wanted : std::nullopt, ipoib);
        const bool stray = choice && names.empty() && !wanted &&
                           choice.value().port.link_layer == LinkLayer::ethernet &&
                           is_link_local(choice.value().gid.bytes);
        if (stray) {
            choice =
                Error{Code::unavailable, 0,
                      fmt::format("{} has no address but a link-local one", choice.value().name())};
        }
        if (!choice) {
            plan.left_out.push_back(choice.error().message);
        } else if (plan.rails.size() == kRailsMax) {
            plan.left_out.push_back(
                fmt::format("{} is one more than {} rails", choice.value().name(), kRailsMax));
        } else {
            plan.rails.push_back(std::move(choice).value());
        }
    }
    if (plan.rails.empty()) return none_usable("no RDMA port can be used", plan.left_out);
    return plan;
}

std::optional<SocketAddress> find_ipoib(const GidBytes& gid) {
    ::ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return std::nullopt;
    const InterfaceList owner(list);
    for (const ::ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
        if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
        // 20 bytes as "80:00:…": the last 16 are the GID of the port below.
        std::ifstream file(fmt::format("/sys/class/net/{}/address", i->ifa_name));
        std::string text;
        if (!(file >> text) || text.size() != 59) continue;
        GidBytes bytes{};
        std::istringstream digits(text.substr(12));
        for (std::byte& byte : bytes) {
            unsigned value = 0;
            digits >> std::hex >> value;
            digits.ignore(1);
            byte = static_cast<std::byte>(value);
        }
        if (bytes != gid) continue;
        SocketAddress address;
        address.bytes = sizeof(::sockaddr_in);
        std::memcpy(&address.storage, i->ifa_addr, sizeof(::sockaddr_in));
        return address;
    }
    return std::nullopt;
}

Result<std::unique_ptr<Rail>> Rail::open(const RailChoice& choice) {
    std::unique_ptr<Rail> rail(new Rail(choice));
    int count = 0;
    ::ibv_device** list = ::ibv_get_device_list(&count);
    if (list == nullptr) return call_error(choice, "ibv_get_device_list");
    for (int i = 0; i < count && !rail->context_; ++i) {
        if (choice.device == ::ibv_get_device_name(list[i])) {
            rail->context_.reset(::ibv_open_device(list[i]));
        }
    }
    ::ibv_free_device_list(list);
    if (!rail->context_) return call_error(choice, "ibv_open_device");
    ::ibv_port_attr port{};
    if (::ibv_query_port(rail->context(), choice.port.number, &port) != 0) {
        return call_error(choice, "ibv_query_port");
    }
    ::ibv_device_attr device{};
    if (::ibv_query_device(rail->context(), &device) != 0) {
        return call_error(choice, "ibv_query_device");
    }
    rail->completions_max_ = device.max_cqe;
    rail->mtu_ = port.active_mtu;
    rail->message_bytes_max_ = port.max_msg_sz;
    rail->domain_.reset(::ibv_alloc_pd(rail->context()));
    if (!rail->domain_) return call_error(choice, "ibv_alloc_pd");
    void* page = ::mmap(nullptr, kProbePageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return call_error(choice, "mmap");
    rail->probe_page_ = Mapping(page, kProbePageBytes);
    rail->probe_region_.reset(
        ::ibv_reg_mr_iova2(rail->domain(), page, kProbePageBytes, 0,
                           static_cast<unsigned>(IBV_ACCESS_LOCAL_WRITE) |
                               static_cast<unsigned>(IBV_ACCESS_REMOTE_READ)));
    if (!rail->probe_region_) return call_error(choice, "ibv_reg_mr of a page");
    return rail;
}

}  // namespace weightcast::transport::verbs
