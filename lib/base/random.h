// Randomness by interface. Seeded for reproducible logic, from the system for identities.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weightcast {

// A small seeded generator (SplitMix64, Steele et al. 2014). Not for secrets. Thread-bound.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next();
    // Uniform in [0, bound). REQUIRES: bound > 0
    std::uint64_t below(std::uint64_t bound);
    // Uniform in [0, 1).
    double unit();

  private:
    std::uint64_t state_;
};

// 128 bits from the kernel's generator, for identities and keys. Thread-safe.
std::array<std::byte, 16> random_identity();
std::uint64_t random_seed();

}  // namespace weightcast
