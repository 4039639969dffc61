#include <algorithm>
#include <cmath>

#include "sim/simulation.h"

namespace weightcast::sim {

Distribution distribution_of(std::vector<double> values) {
    Distribution result;
    if (values.empty()) return result;
    std::sort(values.begin(), values.end());
    const auto at = [&](double part) {
        const double place = std::ceil(part * static_cast<double>(values.size())) - 1;
        return values[static_cast<std::size_t>(std::max(0.0, place))];
    };
    result.count = static_cast<std::uint32_t>(values.size());
    result.min = values.front();
    result.median = at(0.5);
    result.p90 = at(0.9);
    result.p99 = at(0.99);
    result.max = values.back();
    return result;
}

Distribution Outcome::times() const {
    std::vector<double> values;
    for (const Receiver& receiver : receivers) {
        if (receiver.end > 0) values.push_back(receiver.end - receiver.start);
    }
    return distribution_of(std::move(values));
}

Distribution Outcome::times(Receiver::Kind kind) const {
    std::vector<double> values;
    for (const Receiver& receiver : receivers) {
        if (receiver.end > 0 && receiver.kind == kind) {
            values.push_back(receiver.end - receiver.start);
        }
    }
    return distribution_of(std::move(values));
}

Distribution Outcome::times_from_plan(Receiver::Kind kind) const {
    std::vector<double> values;
    for (const Receiver& receiver : receivers) {
        if (receiver.end > 0 && receiver.kind == kind) {
            values.push_back(receiver.end - receiver.planned);
        }
    }
    return distribution_of(std::move(values));
}

}  // namespace weightcast::sim
