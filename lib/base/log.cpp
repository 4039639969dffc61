#include "base/log.h"

#include <unistd.h>

#include <string>

namespace weightcast {
namespace {

struct LogState {
    LogLevel least = LogLevel::warning;
    std::string program = "weightcast";
};

LogState& state() {
    static LogState instance;
    return instance;
}

}  // namespace

void set_log(LogLevel least, std::string_view program) {
    state().least = least;
    state().program = program;
}

void log_line(LogLevel level, std::string_view text) {
    if (level < state().least) return;
    const char* mark = level == LogLevel::warning ? "warning: "
                       : level == LogLevel::error ? "error: "
                                                  : "";
    const std::string line = fmt::format("{}: {}{}\n", state().program, mark, text);
    // One write per line, so that lines of several threads do not mix.
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace weightcast
