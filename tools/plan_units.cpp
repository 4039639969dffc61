#include "tools/plan_units.h"

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <utility>

#include "plan/rate.h"

namespace weightcast::plan_tool {
namespace {

struct Unit {
    std::string_view name;
    double factor;
};

constexpr std::array<Unit, 4> kTimes{{{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}}};

// A number that is not negative, and what follows it.
std::pair<double, std::string_view> split(std::string_view text) {
    double number = -1;
    const auto parsed =
        std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
    if (parsed.ec != std::errc{} || !(number >= 0)) return {-1, text};
    return {number, text.substr(static_cast<std::size_t>(parsed.ptr - text.data()))};
}

Error bad(std::string_view option, std::string_view text, std::string_view wanted) {
    return {Code::invalid_input, 0, fmt::format("--{} {} {}", option, text, wanted)};
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view option, std::string_view text) {
    auto [number, unit] = split(text);
    if (!unit.empty() && unit.back() == 'B') unit.remove_suffix(1);
    const auto factor = plan::prefix_factor(unit);
    if (number < 0 || !factor || number * *factor > 1e18) {
        return bad(option, text, "is not a size up to 1e18 bytes, such as 8G or 128Mi");
    }
    return static_cast<std::uint64_t>(number * *factor);
}

Result<Duration> parse_time(std::string_view option, std::string_view text) {
    const auto [number, unit] = split(text);
    if (number == 0 && unit.empty()) return Duration::zero();
    for (const Unit& known : kTimes) {
        if (number < 0 || unit != known.name || number * known.factor > 1e14) continue;
        return Duration(static_cast<std::int64_t>(number * known.factor));
    }
    return bad(option, text, "is not a time up to 1e5 s, such as 20us, 5ms or 1s");
}

Result<double> parse_rate(std::string_view option, std::string_view text) {
    if (text == "0") return 0.0;
    const auto rate = plan::parse_rate(text);
    if (!rate) return bad(option, text, plan::kRateWanted);
    return *rate;
}

}  // namespace weightcast::plan_tool
