#include "plan/bound.h"

#include <algorithm>
#include <numeric>

namespace weightcast::plan {

Bound lower_bound(const BoundInput& input) {
    Bound bound{0, "nothing known"};
    const auto cut = [&](double rate, const char* name) {
        if (rate <= 0) return;
        const double least = static_cast<double>(input.bytes) / rate;
        if (least > bound.seconds) bound = {least, name};
    };
    cut(input.receiver_rate, "receiver port");
    cut(input.copy_rate, "memory copy");
    // One holder without a known limit makes the sum unlimited.
    const auto& rates = input.holder_rates;
    const bool all_known =
        std::all_of(rates.begin(), rates.end(), [](double rate) { return rate > 0; });
    if (all_known) cut(std::accumulate(rates.begin(), rates.end(), 0.0), "holder ports");
    return bound;
}

}  // namespace weightcast::plan
