// A cap on bytes per second. Thread-bound.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace weightcast::transport::tcp {

class TokenBucket {
  public:
    // A rate of 0 is no cap. Up to 10 ms of the rate (at least 16 KiB) may be sent in one burst.
    TokenBucket(std::uint64_t bytes_per_second, TimePoint now)
        : rate_(static_cast<double>(bytes_per_second)),
          burst_(std::max(rate_ / 100, 16384.0)),
          tokens_(burst_),
          updated_(now) {}

    // Bytes that may be sent now, at most `wanted`.
    std::uint64_t available(std::uint64_t wanted, TimePoint now) {
        if (rate_ <= 0) return wanted;
        tokens_ = std::min(burst_, tokens_ + rate_ * seconds(now - updated_));
        updated_ = now;
        if (tokens_ < std::min(static_cast<double>(wanted), burst_ / 4)) return 0;
        return std::min(wanted, static_cast<std::uint64_t>(tokens_));
    }

    void take(std::uint64_t bytes) { tokens_ -= rate_ <= 0 ? 0 : static_cast<double>(bytes); }

    // Milliseconds until a quarter of a burst is there, at least 1.
    int wait_ms() const {
        if (rate_ <= 0) return 1;
        return 1 + static_cast<int>(std::max(0.0, (burst_ / 4 - tokens_) / rate_ * 1000));
    }

  private:
    double rate_;
    double burst_;
    double tokens_;
    TimePoint updated_;
};

}  // namespace weightcast::transport::tcp
