#include "tests/contract/fabrics.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <string>
#include <vector>

#include "base/random.h"
#include "tests/contract/memory_site.h"
#include "tests/contract/process_site.h"
#include "transport/open.h"
#include "transport/shm/address.h"

namespace weightcast::contract {
namespace {

SiteFactory process_site(const std::string& name, const OpenFabric& open,
                         const std::string& nobody) {
    return {name, reason_to_skip(open), [=] {
                return make_process_site({open, open, nobody, false});
            }};
}

using DeviceNames = std::vector<std::string>;

DeviceNames rdma_devices() {
    DeviceNames names;
    std::error_code error;
    std::filesystem::directory_iterator entries("/sys/class/infiniband", error);
    if (error) return names;
    for (const auto& entry : entries) names.push_back(entry.path().filename().string());
    std::ranges::sort(names);
    return names;
}

OpenFabric open_verbs_on(const DeviceNames& devices, bool out_of_band) {
    return [=](const fabric::FabricOptions& options) {
        fabric::FabricOptions named = options;
        named.devices = devices;
        named.out_of_band = out_of_band;
        // Small enough that the tests' reads cross from one to the next.
        if (devices.size() > 1) named.slice_bytes = 256U << 10U;
        return transport::open_verbs(named);
    };
}

// Holders use the first half of this host's devices and readers the second, up to `rails` each.
SiteFactory verbs_site(const std::string& name, std::size_t rails, bool out_of_band) {
    const DeviceNames all = rdma_devices();
    const std::size_t half = all.size() > 1 ? all.size() / 2 : all.size();
    if (half < rails) {
        return {
            name, fmt::format("it takes {} RDMA devices, there are {}", 2 * rails, all.size()), {}};
    }
    const auto count = static_cast<std::ptrdiff_t>(rails);
    const auto holder = open_verbs_on({all.begin(), all.begin() + count}, out_of_band);
    const auto reader = open_verbs_on({all.end() - count, all.end()}, out_of_band);
    // The same hosts, where nobody listens on port 1.
    const std::string nobody =
        std::regex_replace(sample_address(holder), std::regex(":[0-9]+(?=[,/]|$)"), ":1");
    return {name, reason_to_skip(reader), [=] {
                return make_process_site({reader, holder, nobody, true});
            }};
}

// A name of this host and namespace that no process has.
std::string shm_nobody() {
    const auto scope = transport::shm::local_scope();
    if (!scope) return {};
    return transport::shm::Address{scope.value(), std::string(32, '0')}.text();
}

}  // namespace

std::vector<SiteFactory> sites() {
    const auto striped = [](const fabric::FabricOptions& options) {
        fabric::FabricOptions four = options;
        four.connections_per_link = 4;
        return transport::open_tcp(four);
    };
    return {
        {"memory", "", [] { return make_memory_site(1); }},
        process_site("tcp", transport::open_tcp, "tcp://127.0.0.1:1"),
        process_site("tcp-striped", striped, "tcp://127.0.0.1:1"),
        process_site("shm", transport::open_shm, shm_nobody()),
        process_site("ucx", transport::open_ucx, "ucx://127.0.0.1:1"),
        verbs_site("verbs", 1, false),
        verbs_site("verbs-out-of-band", 1, true),
        verbs_site("verbs-rails", 2, false),
    };
}

fabric::FabricOptions fresh_options() {
    fabric::FabricOptions options;
    options.incarnation = random_identity();
    // Generous, so that a slow machine fails no test; tests of the deadline set their own.
    options.progress_ms_max = 30'000;
    return options;
}

}  // namespace weightcast::contract
