// Network settings that break RoCE although each device is well: several interfaces in one subnet.
#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "transport/doctor/examine.h"
#include "transport/doctor/host_files.h"

namespace weightcast::transport::doctor {
namespace {

constexpr const char* kTopic = "network";

std::set<std::string> roce_interfaces(const Facts& facts) {
    std::set<std::string> names;
    for (const verbs::Device& device : facts.rdma.devices) {
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

// The kernel takes the greater of an interface's own value and that of "all".
std::int64_t setting(const Roots& roots, const std::string& interface, const char* name) {
    const std::string folder = roots.proc + "/sys/net/ipv4/conf/";
    return std::max(read_number(folder + "all/" + name).value_or(0),
                    read_number(folder + interface + "/" + name).value_or(0));
}

void examine_subnet(const Facts& facts, const std::set<std::string>& interfaces,
                    std::vector<Finding>& findings) {
    const std::string together = fmt::format("{}", fmt::join(interfaces, ", "));
    bool good = true;
    for (const std::string& interface : interfaces) {
        if (setting(facts.roots, interface, "rp_filter") == 1) {
            good = false;
            findings.push_back(
                {Severity::warning, kTopic,
                 fmt::format("{} share a subnet, and {} drops packets that the kernel would have "
                             "sent through another (rp_filter 1)",
                             together, interface),
                 fmt::format("`sysctl -w net.ipv4.conf.{}.rp_filter=2`", interface)});
        }
        if (setting(facts.roots, interface, "arp_ignore") == 0 ||
            setting(facts.roots, interface, "arp_announce") < 2) {
            good = false;
            findings.push_back(
                {Severity::warning, kTopic,
                 fmt::format("{} share a subnet, and {} answers for the others' addresses: peers "
                             "may reach the wrong device",
                             together, interface),
                 fmt::format("`sysctl -w net.ipv4.conf.{0}.arp_ignore=1 "
                             "net.ipv4.conf.{0}.arp_announce=2`",
                             interface)});
        }
    }
    if (good) {
        findings.push_back(
            {Severity::ok, kTopic, together + " share a subnet, and are configured for it", ""});
    }
}

}  // namespace

void examine_network(const Facts& facts, std::vector<Finding>& findings) {
    const auto roce = roce_interfaces(facts);
    std::map<std::uint32_t, std::set<std::string>> subnets;
    for (const InterfaceAddress& one : facts.interfaces) {
        if (roce.count(one.interface) != 0) {
            subnets[one.address & one.mask].insert(one.interface);
        }
    }
    for (const auto& [subnet, interfaces] : subnets) {
        if (interfaces.size() > 1) examine_subnet(facts, interfaces, findings);
    }
}

}  // namespace weightcast::transport::doctor
