#include "tools/cli.h"

#include <fmt/core.h>
#include <fmt/ostream.h>
#include <unistd.h>

#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <system_error>

namespace weightcast::cli {
namespace {

namespace po = boost::program_options;

sigset_t end_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

}  // namespace

Result<std::optional<po::variables_map>> parse(
    const Program& program, int argc, const char* const* argv, po::options_description options,
    const po::positional_options_description& positional) {
    options.add_options()("help,h", "print this and exit");
    // p2p-serve has a use of its own for the word.
    const bool own_version = options.find_nothrow("version", false) != nullptr;
    if (!own_version) options.add_options()("version", "print the version and exit");
    po::variables_map values;
    try {
        po::store(po::command_line_parser(argc, argv).options(options).positional(positional).run(),
                  values);
        if (values.count("help") != 0) {
            std::ostringstream text;
            text << options;
            fmt::print("usage: {} {}\n{}\n\n{}", program.name, program.synopsis, program.summary,
                       text.str());
            return std::optional<po::variables_map>();
        }
        if (!own_version && values.count("version") != 0) {
            fmt::print("{} {}\n", program.name, WEIGHTCAST_VERSION);
            return std::optional<po::variables_map>();
        }
        po::notify(values);
    } catch (const po::error& failure) {
        return Error{Code::invalid_input, 0,
                     fmt::format("{} (see {} --help)", failure.what(), program.name)};
    }
    return std::optional(std::move(values));
}

void complain(const Program& program, const Error& error) {
    const std::string line = fmt::format("{}: {}\n", program.name, error.message);
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

void flush_output() {
    if (std::fflush(stdout) == 0) return;
    throw std::system_error(errno, std::generic_category(), "cannot write to file");
}

void complain_of_exception(const Program& program, const std::exception& failure) {
    const auto* const system = dynamic_cast<const std::system_error*>(&failure);
    if (system != nullptr && system->code() == std::errc::broken_pipe) return;
    complain(program, {Code::io, 0, failure.what()});
}

SignalWait::SignalWait() {
    const sigset_t set = end_signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int SignalWait::wait() const {
    const sigset_t set = end_signals();
    int number = 0;
    while (sigwait(&set, &number) != 0) continue;
    return number;
}

Result<void> print_line(std::string_view line) {
    std::string text(line);
    text += '\n';
    std::string_view rest = text;
    while (!rest.empty()) {
        const ssize_t written = ::write(STDOUT_FILENO, rest.data(), rest.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return system_error(errno, "write to standard output");
        rest.remove_prefix(static_cast<std::size_t>(written));
    }
    return success();
}

}  // namespace weightcast::cli
