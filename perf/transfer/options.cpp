#include "perf/transfer/options.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <string_view>

namespace weightcast::perf {
namespace {

Result<std::uint64_t> parse_number(std::string_view text) {
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value == 0 ||
        value > kNumberMax) {
        return Error{Code::invalid_input, 0, fmt::format("'{}' is not 1 to {}", text, kNumberMax)};
    }
    return value;
}

}  // namespace

Result<void> parse_options(std::span<char* const> arguments, std::span<const Option> options) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string_view name = arguments[i];
        const auto found = std::find_if(options.begin(), options.end(),
                                        [&](const Option& one) { return name == one.name; });
        if (found == options.end()) {
            return Error{Code::invalid_input, 0, fmt::format("no option '{}'", name)};
        }
        if (found->is_set != nullptr) {
            *found->is_set = true;
            continue;
        }
        if (++i == arguments.size()) {
            return Error{Code::invalid_input, 0, fmt::format("{} needs a value", name)};
        }
        if (found->text != nullptr) {
            *found->text = arguments[i];
        } else {
            WEIGHTCAST_TRY(*found->number, parse_number(arguments[i]));
        }
    }
    return success();
}

}  // namespace weightcast::perf
