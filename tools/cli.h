// What the command line tools have in common: usage, messages, exit codes, waiting for a signal.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/positional_options.hpp>
#include <boost/program_options/variables_map.hpp>
#include <csignal>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "weightcast/result.h"

namespace weightcast::cli {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;

struct Program {
    std::string_view name;      // "p2p-meta"
    std::string_view summary;   // one line
    std::string_view synopsis;  // what follows the name in the usage line
};

// Parses the arguments; adds --help itself, and --version unless the program has its own.
// Gives nothing if it printed help or the version on stdout: the program is done.
// Errors: invalid_input.
Result<std::optional<boost::program_options::variables_map>> parse(
    const Program& program, int argc, const char* const* argv,
    boost::program_options::options_description options,
    const boost::program_options::positional_options_description& positional = {});

// Prints an error as "NAME: message" on stderr.
void complain(const Program& program, const Error& error);
// The same; nothing if whoever read what the program prints is gone, and wanted no more of it.
void complain_of_exception(const Program& program, const std::exception& failure);

// Writes what is left of standard output. Throws std::system_error.
void flush_output();

// Runs a tool: `parse_options(argc, argv)` gives Result<std::optional<Options>>,
// `run_tool(options)` gives Result<void>. Gives the exit code, after a message on stderr if that is
// not 0.
template <typename Parse, typename Run>
int run_main(const Program& program, int argc, const char* const* argv, Parse&& parse_options,
             Run&& run_tool) {
    set_log(LogLevel::warning, program.name);
    std::signal(SIGPIPE, SIG_IGN);  // a reader that is gone is an error of the write
    try {
        auto options = parse_options(argc, argv);
        if (!options) {
            complain(program, options.error());
            return kUsage;
        }
        Result<void> result = success();
        if (options.value()) result = run_tool(std::move(*options.value()));
        flush_output();
        if (result) return kDone;
        complain(program, result.error());
    } catch (const std::exception& failure) {
        complain_of_exception(program, failure);
    }
    return kFailed;
}

// Holds SIGINT and SIGTERM back from this thread and those it starts. Construct it before any
// thread; one per program.
class SignalWait {
  public:
    SignalWait();
    // Blocks until one of them comes, and gives its number.
    int wait() const;
};

// Writes one line to stdout, whole and at once, so that a reader of a pipe sees it.
// Errors: io (the reader is gone).
Result<void> print_line(std::string_view line);

}  // namespace weightcast::cli
