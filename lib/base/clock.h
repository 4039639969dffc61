// Time and randomness, by interface, so that the same logic runs in production and in simulation.
#pragma once

#include <chrono>
#include <cstdint>

namespace weightcast {

using Duration = std::chrono::nanoseconds;
// Since an arbitrary start; never jumps when the wall clock is set.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

class Clock {
  public:
    virtual ~Clock() = default;
    virtual TimePoint now() const = 0;
    // Milliseconds since 1970, for people to read only; no logic may depend on it.
    virtual std::uint64_t wall_ms() const = 0;
};

// The machine's clocks. Thread-safe, never destroyed.
const Clock& system_clock();

inline double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace weightcast
