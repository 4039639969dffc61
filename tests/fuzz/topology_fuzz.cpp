// Goal: no text breaks the reader of topologies, and what it accepts can be planned with: indexes
// are in range, rates are rates, names are there, and somebody is a source. Input: the JSON text.
#include <algorithm>
#include <set>
#include <string_view>

#include "base/assert.h"
#include "plan/bound.h"
#include "plan/rate.h"
#include "plan/topology.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast;
using namespace weightcast::plan;

constexpr std::size_t kSmall = 1000;  // ranks that are looked at one by one

template <typename Spec>
void check_names(const std::vector<Spec>& list) {
    std::set<std::string_view> names;
    for (const Spec& spec : list) {
        WEIGHTCAST_ASSERT(!spec.name.empty() && spec.name.size() <= 256);
        WEIGHTCAST_ASSERT(names.insert(spec.name).second);
    }
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    return {
        R"({"racks":[{"name":"r","count":4,"uplink":"96GB/s"}],)"
        R"("hosts":[{"name":"h","per_rack":2,"local":"400GB/s"}],)"
        R"("ranks":[{"name":"g","per_host":3,"port":"48GB/s"}],"sources":["r0.h0.g0"]})",
        R"({"racks":[{"name":"a","up":10,"down":2.5e9},{"name":"b"}],)"
        R"("hosts":[{"name":"x","rack":"b"},{"name":"y","rack":"a","count":2}],)"
        R"("ranks":[{"name":"p","host":"y1","up":"200Mbit/s","down":0},)"
        R"({"name":"q","host":"x","source":true}]})",
        R"({"ranks":[{"name":"a","source":true},{"name":"b","count":9,"port":"1.5 GiB/s"}]})",
        R"({"ranks":[{"name":"a","name":"a","count":-1,"port":1e400}],"sources":[null]})",
    };
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto parsed = parse_topology(text);
    if (!parsed) {
        WEIGHTCAST_ASSERT(parsed.error().code == Code::invalid_input);
        return 0;
    }
    const Topology& topology = parsed.value();
    if (topology.ranks.size() > kSmall) return 0;
    check_names(topology.racks);
    check_names(topology.hosts);
    check_names(topology.ranks);
    for (const RackSpec& rack : topology.racks) {
        WEIGHTCAST_ASSERT(is_rate(rack.up) && is_rate(rack.down));
    }
    for (const HostSpec& host : topology.hosts) {
        WEIGHTCAST_ASSERT(host.rack < topology.racks.size() && is_rate(host.local));
    }
    for (const RankSpec& rank : topology.ranks) {
        WEIGHTCAST_ASSERT(rank.host < topology.hosts.size());
        WEIGHTCAST_ASSERT(is_rate(rank.up) && is_rate(rank.down));
    }
    WEIGHTCAST_ASSERT(std::any_of(topology.ranks.begin(), topology.ranks.end(),
                                  [](const RankSpec& rank) { return rank.source; }));
    const Bound free = fleet_bound(topology, 1'000'000);
    const Bound costly = fleet_bound(topology, 1'000'000, {1e-6, 100});
    WEIGHTCAST_ASSERT(free.seconds >= 0 && free.seconds <= costly.seconds);
    return 0;
}
