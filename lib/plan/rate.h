// Rates as people write them: "200Mbit/s", "48GB/s", "1.5GiB/s", "9000B/s". Pure.
#pragma once

#include <optional>
#include <string_view>

namespace weightcast::plan {

// What a rate may be, for messages.
inline constexpr const char* kRateWanted =
    "is not a rate: 0, or 1 to 1e18 bytes/s, as a number or with a unit such as Mbit/s or GB/s";

// True if `bytes_per_s` is 0 (without limit), or from 1 to 1e18.
bool is_rate(double bytes_per_s);

// In bytes/s; nothing if the text is not a rate. Units: bit/s and B/s with k, M, G, T (powers of
// 1000), and B/s with Ki, Mi, Gi, Ti; "/s" may be left out.
std::optional<double> parse_rate(std::string_view text);

// 1e3 for "k", 2^30 for "Gi", 1 for "" and so on, up to T and Ti; nothing if there is no such
// prefix.
std::optional<double> prefix_factor(std::string_view prefix);

}  // namespace weightcast::plan
