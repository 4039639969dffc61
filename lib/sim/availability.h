// What a rank has.
#pragma once

#include <cstdint>
#include <vector>

namespace weightcast::sim {

class Availability {
  public:
    Availability(std::uint32_t chunks, bool all);
    bool has(std::uint32_t chunk) const { return (words_[chunk / 64] >> (chunk % 64) & 1U) != 0; }
    // False: it had it.
    bool set(std::uint32_t chunk);
    bool complete() const { return held_ == chunks_; }
    std::uint32_t held() const { return held_; }
    const std::vector<std::uint64_t>& words() const { return words_; }

  private:
    std::uint32_t chunks_;
    std::uint32_t held_ = 0;
    std::vector<std::uint64_t> words_;
};

}  // namespace weightcast::sim
