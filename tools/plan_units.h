// Sizes and times as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "weightcast/result.h"

namespace weightcast::plan_tool {

// "1T", "8GB", "128Mi", "4096": powers of 1000, or of 1024 with an i.
// Errors: invalid_input (naming the option and the text).
Result<std::uint64_t> parse_size(std::string_view option, std::string_view text);
// "20us", "1.5ms", "2s", "0"; also ns.
Result<Duration> parse_time(std::string_view option, std::string_view text);
// As plan::parse_rate() has it.
Result<double> parse_rate(std::string_view option, std::string_view text);

}  // namespace weightcast::plan_tool
