// Numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace weightcast {

// "1.50 GB", "200 B"; powers of 1000.
std::string human_bytes(std::uint64_t bytes);
// "1.50 GB/s".
std::string human_rate(double bytes_per_second);
// "0.84 s", "2 m 05 s".
std::string human_seconds(double seconds);

}  // namespace weightcast
