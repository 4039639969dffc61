// How many stripes a forest has.
#include <algorithm>

#include "plan/forest.h"

namespace weightcast::plan {
namespace {

constexpr std::size_t kManyReaders = 128;
constexpr std::uint32_t kStripesOfMany = 3;

}  // namespace

ForestOptions options_for(double port_rate, std::span<const Member> sources,
                          std::uint32_t ranks_per_host, std::uint32_t stripes_min,
                          std::uint32_t stripes_max) {
    double most = 0;
    bool known = true;
    for (const Member& source : sources) {
        known = known && source.rate > 0;
        most = std::max(most, source.rate);
    }
    ForestOptions options;
    options.port_rate = port_rate;
    if (port_rate == 0) options.port_rate = most;
    if (port_rate != 0 && known && most > 0) options.port_rate = std::min(port_rate, most);
    options.stripes =
        std::clamp(static_cast<std::uint32_t>(sources.size()), stripes_min, stripes_max);
    return with_readers(options, 0, ranks_per_host, stripes_max);
}

ForestOptions with_readers(const ForestOptions& options, std::size_t readers,
                           std::uint32_t ranks_per_host, std::uint32_t stripes_max) {
    std::uint32_t share = options.stripes / options.ranks_per_host;
    if (readers >= kManyReaders && ranks_per_host <= 1) {
        share = std::max(share, std::min(kStripesOfMany, stripes_max));
    }
    ForestOptions result = options;
    result.ranks_per_host =
        std::clamp(ranks_per_host, 1U, std::min(kRanksPerHostMax, kStripesMax / share));
    result.stripes = share * result.ranks_per_host;
    return result;
}

}  // namespace weightcast::plan
