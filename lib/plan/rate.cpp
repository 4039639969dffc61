#include "plan/rate.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <utility>

namespace weightcast::plan {
namespace {

constexpr double kRateMin = 1;
constexpr double kRateMax = 1e18;
constexpr std::size_t kRateTextBytesMax = 64;
constexpr std::array<std::pair<std::string_view, double>, 9> kPrefixes{{{"", 1},
                                                                        {"k", 1e3},
                                                                        {"M", 1e6},
                                                                        {"G", 1e9},
                                                                        {"T", 1e12},
                                                                        {"Ki", 0x1p10},
                                                                        {"Mi", 0x1p20},
                                                                        {"Gi", 0x1p30},
                                                                        {"Ti", 0x1p40}}};

bool strip(std::string_view& text, std::string_view suffix) {
    if (!text.ends_with(suffix)) return false;
    text.remove_suffix(suffix.size());
    return true;
}

}  // namespace

bool is_rate(double bytes_per_s) {
    return bytes_per_s == 0 || (bytes_per_s >= kRateMin && bytes_per_s <= kRateMax);
}

std::optional<double> parse_rate(std::string_view text) {
    if (text.size() > kRateTextBytesMax) return std::nullopt;
    double value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || !std::isfinite(value)) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(parsed.ptr - text.data()));
    while (text.starts_with(' ')) text.remove_prefix(1);
    strip(text, "/s");
    double unit = 1;
    if (strip(text, "bit")) {
        if (text.ends_with('i')) return std::nullopt;
        unit = 1.0 / 8;
    } else if (!strip(text, "B")) {
        return std::nullopt;
    }
    const auto factor = prefix_factor(text);
    if (!factor) return std::nullopt;
    const double rate = value * *factor * unit;
    return is_rate(rate) ? std::optional(rate + 0.0) : std::nullopt;  // no -0
}

std::optional<double> prefix_factor(std::string_view prefix) {
    for (const auto& [known, factor] : kPrefixes) {
        if (prefix == known) return factor;
    }
    return std::nullopt;
}

}  // namespace weightcast::plan
