#include "tests/contract/fabrics.h"

#include "base/random.h"
#include "tests/contract/memory_site.h"
#include "tests/contract/process_site.h"
#include "transport/open.h"
#include "transport/shm/address.h"

namespace weightcast::contract {
namespace {

SiteFactory process_site(const std::string& name, const OpenFabric& open,
                         const std::string& nobody) {
    return {name, reason_to_skip(open), [=] { return make_process_site(open, nobody); }};
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
