// The network between devices that are well: several interfaces in one subnet, which break RoCE,
// and what the interfaces have counted of pauses (PFC) and of packets that they dropped.
#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "transport/doctor/examine.h"
#include "transport/doctor/host_files.h"

namespace weightcast::transport::doctor {
namespace {

constexpr const char* kNetworkTopic = "network";

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
                {Severity::warning, kNetworkTopic,
                 fmt::format("{} share a subnet, and {} drops packets that the kernel would have "
                             "sent through another (rp_filter 1)",
                             together, interface),
                 fmt::format("`sysctl -w net.ipv4.conf.{}.rp_filter=2`", interface)});
        }
        if (setting(facts.roots, interface, "arp_ignore") == 0 ||
            setting(facts.roots, interface, "arp_announce") < 2) {
            good = false;
            findings.push_back(
                {Severity::warning, kNetworkTopic,
                 fmt::format("{} share a subnet, and {} answers for the others' addresses: peers "
                             "may reach the wrong device",
                             together, interface),
                 fmt::format("`sysctl -w net.ipv4.conf.{0}.arp_ignore=1 "
                             "net.ipv4.conf.{0}.arp_announce=2`",
                             interface)});
        }
    }
    if (good) {
        findings.push_back({Severity::ok, kNetworkTopic,
                            together + " share a subnet, and are configured for it", ""});
    }
}

bool any_in(const std::string& text, std::initializer_list<const char*> parts) {
    return std::any_of(parts.begin(), parts.end(),
                       [&text](const char* part) { return text.find(part) != std::string::npos; });
}

// Drivers name the same things differently. mlx5: rx_prio3_pause, rx_global_pause,
// rx_discards_phy, tx_pause_storm_error_events
// (https://docs.kernel.org/networking/device_drivers/ethernet/mellanox/mlx5/counters.html);
// bnxt_en: rx_pfc_ena_frames_pri3; ice: tx_priority_3_xoff.
bool counts_pauses(const std::string& name) {
    return any_in(name, {"pause", "pfc", "xoff"}) && !any_in(name, {"duration", "transition"});
}
bool counts_storms(const std::string& name) {
    return name.find("pause_storm") != std::string::npos;
}
bool counts_drops(const std::string& name) {
    return any_in(name, {"discard", "drop", "out_of_buffer", "no_buffer"});
}

// "name value" of those that are not 0.
std::vector<std::string> pick(const std::vector<Counter>& counters,
                              bool (*wanted)(const std::string&)) {
    std::vector<std::string> result;
    for (const Counter& one : counters) {
        if (one.value != 0 && wanted(one.name))
            result.push_back(fmt::format("{} {}", one.name, one.value));
    }
    return result;
}

// All since the driver was loaded.
void examine_interface(const std::string& interface, const std::vector<Counter>& counters,
                       std::vector<Finding>& findings) {
    const auto storms = pick(counters, counts_storms);
    if (!storms.empty()) {
        findings.push_back(
            {Severity::warning, kNetworkTopic,
             fmt::format("{} was paused for so long that its driver gave up waiting: "
                         "{}",
                         interface, fmt::join(storms, ", ")),
             "a receiver or a loop of switches holds up the network: look at the "
             "switches' PFC watchdog"});
    }
    const auto pauses = pick(counters, counts_pauses);
    const bool told = std::any_of(counters.begin(), counters.end(),
                                  [](const Counter& one) { return counts_pauses(one.name); });
    if (told) {
        findings.push_back({Severity::ok, kNetworkTopic,
                            interface + (pauses.empty() ? " has counted no pause frames (PFC)"
                                                        : fmt::format(" has counted pause frames "
                                                                      "(PFC): {}",
                                                                      fmt::join(pauses, ", "))),
                            ""});
    } else {
        findings.push_back({Severity::note, kNetworkTopic,
                            interface + "'s driver tells no counters of pause frames (PFC)",
                            "look at the switch's"});
    }
    const auto drops = pick(counters, counts_drops);
    if (!drops.empty()) {
        findings.push_back(
            {Severity::note, kNetworkTopic,
             fmt::format("{} has dropped packets: {}", interface, fmt::join(drops, ", ")),
             "if these numbers grow while weights move, configure PFC or ECN on "
             "this interface and on the switches"});
    }
}

}  // namespace

void examine_network(const Facts& facts, std::vector<Finding>& findings) {
    const auto roce = roce_interfaces(facts.rdma);
    std::map<std::uint32_t, std::set<std::string>> subnets;
    for (const InterfaceAddress& one : facts.interfaces) {
        if (roce.count(one.interface) != 0) {
            subnets[one.address & one.mask].insert(one.interface);
        }
    }
    for (const auto& [subnet, interfaces] : subnets) {
        if (interfaces.size() > 1) examine_subnet(facts, interfaces, findings);
    }
    for (const auto& [interface, counters] : facts.counters) {
        examine_interface(interface, counters, findings);
    }
}

}  // namespace weightcast::transport::doctor
