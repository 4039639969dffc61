#include "tools/human.h"

#include <fmt/core.h>

#include <array>

namespace weightcast {

std::string human_bytes(std::uint64_t bytes) {
    constexpr std::array kUnits = {"kB", "MB", "GB", "TB", "PB"};
    if (bytes < 1000) return fmt::format("{} B", bytes);
    double value = static_cast<double>(bytes) / 1000;
    std::size_t unit = 0;
    for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
    return fmt::format("{:.2f} {}", value, kUnits[unit]);
}

std::string human_rate(double bytes_per_second) {
    return human_bytes(static_cast<std::uint64_t>(bytes_per_second)) + "/s";
}

std::string human_seconds(double seconds) {
    if (seconds < 100) return fmt::format("{:.2f} s", seconds);
    const auto whole = static_cast<std::uint64_t>(seconds);
    return fmt::format("{} m {:02} s", whole / 60, whole % 60);
}

}  // namespace weightcast
