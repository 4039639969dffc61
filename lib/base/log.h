// Messages for people, on stderr, one line each, prefixed with the program's name.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

namespace weightcast {

enum class LogLevel { debug, info, warning, error, none };

// Set once at the start of main, before threads. Default: LogLevel::warning, "weightcast".
void set_log(LogLevel least, std::string_view program);

// Thread-safe; a line is written whole.
void log_line(LogLevel level, std::string_view text);

template <typename... Arguments>
void log(LogLevel level, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    log_line(level, fmt::format(format, std::forward<Arguments>(arguments)...));
}

}  // namespace weightcast
