// The command line of the benchmarks: NAME VALUE pairs and switches.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "weightcast/result.h"

namespace weightcast::perf {

// One option; exactly one of the targets is set. Borrowed for the call of parse_options().
struct Option {
    const char* name = nullptr;
    std::uint64_t* number = nullptr;
    std::string* text = nullptr;
    bool* is_set = nullptr;  // a switch, which takes no value
};

constexpr std::uint64_t kNumberMax = 1ULL << 44U;

// Numbers are 1 to kNumberMax. What no argument names keeps its value. Errors: invalid_input.
Result<void> parse_options(std::span<char* const> arguments, std::span<const Option> options);

}  // namespace weightcast::perf
