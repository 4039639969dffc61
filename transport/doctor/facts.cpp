#include "transport/doctor/facts.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "base/freer.h"

namespace weightcast::transport::doctor {
namespace {

std::optional<std::uint64_t> limit_of(::rlim_t value) {
    if (value == RLIM_INFINITY) return std::nullopt;
    return value;
}

bool has_ipc_lock() {
    ::__user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<::__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
    if (::syscall(SYS_capget, &header, sets.data()) != 0) return false;
    return (sets[0].effective & (1U << CAP_IPC_LOCK)) != 0;
}

std::uint32_t ipv4_of(const ::sockaddr* address) {
    return ntohl(reinterpret_cast<const ::sockaddr_in*>(address)->sin_addr.s_addr);
}

std::vector<InterfaceAddress> gather_interfaces() {
    std::vector<InterfaceAddress> result;
    ::ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return result;
    const std::unique_ptr<::ifaddrs, Freer<::freeifaddrs>> owner(list);
    for (const ::ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
        if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
        if (i->ifa_netmask == nullptr) continue;
        result.push_back({i->ifa_name, ipv4_of(i->ifa_addr), ipv4_of(i->ifa_netmask)});
    }
    return result;
}

}  // namespace

std::set<std::string> roce_interfaces(const RdmaFacts& rdma) {
    std::set<std::string> names;
    for (const verbs::Device& device : rdma.devices) {
        for (const verbs::Port& port : device.ports) {
            for (const verbs::Gid& gid : port.gids) {
                if (!gid.netdev.empty() && port.link_layer == verbs::LinkLayer::ethernet) {
                    names.insert(gid.netdev);
                }
            }
        }
    }
    return names;
}

Facts gather_facts() {
    Facts facts;
    facts.rdma = gather_rdma();
    facts.cuda = gather_cuda();
    facts.ucx = gather_ucx();
    facts.interfaces = gather_interfaces();
    for (const std::string& interface : roce_interfaces(facts.rdma)) {
        facts.counters[interface] = read_counters(interface);
    }
    ::rlimit memlock{};
    if (::getrlimit(RLIMIT_MEMLOCK, &memlock) == 0) {
        facts.memlock_soft = limit_of(memlock.rlim_cur);
        facts.memlock_hard = limit_of(memlock.rlim_max);
    }
    facts.may_lock = has_ipc_lock();
    return facts;
}

}  // namespace weightcast::transport::doctor
