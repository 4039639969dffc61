// Counters of the server in Prometheus' text format 0.0.4. Thread-bound.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "registry/state.h"
#include "registry/store.h"

namespace weightcast::registry {

class Metrics {
  public:
    // `route` must live as long as this, and come from a fixed set: each one is kept for ever.
    void observe(std::string_view route, int status, double seconds);

    std::string text(const StateCounts& counts, const StoreStats& store) const;

    std::uint64_t connections = 0;          // open now
    std::uint64_t connections_refused = 0;  // by a limit
    std::uint64_t event_subscribers = 0;    // now
    std::uint64_t late_ticks = 0;           // times that the registry stood still

  private:
    static constexpr std::array<double, 8> kBounds{0.0001, 0.0005, 0.001, 0.005,
                                                   0.01,   0.05,   0.1,   1.0};
    struct Histogram {
        std::array<std::uint64_t, kBounds.size() + 1> counts{};
        double sum = 0;
        std::uint64_t count = 0;
    };

    std::map<std::pair<std::string_view, int>, std::uint64_t> requests_;
    std::map<std::string_view, Histogram> seconds_;
};

}  // namespace weightcast::registry
