#include <sys/random.h>

#include <cstring>

#include "base/assert.h"
#include "base/clock.h"
#include "base/random.h"

namespace weightcast {
namespace {

class SystemClock final : public Clock {
  public:
    TimePoint now() const override { return std::chrono::steady_clock::now(); }
    std::uint64_t wall_ms() const override {
        const auto since = std::chrono::system_clock::now().time_since_epoch();
        return static_cast<std::uint64_t>(
            std::chrono::duration_cast<std::chrono::milliseconds>(since).count());
    }
};

}  // namespace

const Clock& system_clock() {
    static const SystemClock clock;
    return clock;
}

std::uint64_t Random::next() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
}

std::uint64_t Random::below(std::uint64_t bound) {
    WEIGHTCAST_ASSERT(bound > 0);
    // Lemire's multiply-shift; the bias below 2^-32 for our bounds does not matter here.
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64U);
}

double Random::unit() { return static_cast<double>(next() >> 11U) * 0x1.0p-53; }

std::array<std::byte, 16> random_identity() {
    std::array<std::byte, 16> bytes;
    WEIGHTCAST_ASSERT(::getrandom(bytes.data(), bytes.size(), 0) == ssize_t{16});
    return bytes;
}

std::uint64_t random_seed() {
    const auto bytes = random_identity();
    std::uint64_t seed = 0;
    std::memcpy(&seed, bytes.data(), sizeof seed);
    return seed;
}

}  // namespace weightcast
