// p2p-meta: the registry as a program of its own.
#include <fmt/core.h>

#include <string>

#include "registry/client.h"
#include "registry/server.h"
#include "tools/cli.h"

namespace weightcast {
namespace {

namespace po = boost::program_options;

constexpr cli::Program kProgram{
    "p2p-meta",
    "Keeps versions, channels, peers and who holds what. Without --store, in memory only.",
    "[--listen HOST:PORT] [--store DIR] [--token-file FILE] [--lease-ms N] "
    "[--versions-kept N] [--json]"};

struct Options {
    registry::ServerOptions server;
    std::string token_file;
    std::string topology_file;
    bool json = false;
};

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    Options options;
    po::options_description description("options");
    registry::ServerOptions& server = options.server;
    description.add_options()(
        "listen", po::value(&server.listen)->default_value(server.listen)->value_name("HOST:PORT"),
        "where to listen; port 0 takes any free one")(
        "store", po::value(&server.store_directory)->value_name("DIR"),
        "directory of the durable state, made if missing")(
        "token-file", po::value(&options.token_file)->value_name("FILE"),
        "bearer token that every request must carry")(
        "topology", po::value(&options.topology_file)->value_name("FILE"),
        "racks, their uplinks and ports of hosts, which count more than what peers tell")(
        "rack-label", po::value(&server.placement.rack_label)->value_name("NAME"),
        "label of a peer that names its rack (default: rack)")(
        "lease-ms", po::value(&server.lease_ms)->default_value(server.lease_ms)->value_name("N"),
        "a peer that is silent for so long, and a grace, is taken for dead")(
        "versions-kept",
        po::value(&server.versions_kept)->default_value(server.versions_kept)->value_name("N"),
        "newest versions of a model that are kept though nobody has them; older ones go")(
        "json", po::bool_switch(&options.json), "print one line of JSON on stdout when usable");
    WEIGHTCAST_TRY(const auto values, cli::parse(kProgram, argc, argv, description));
    if (!values) return std::optional<Options>();
    constexpr std::uint32_t kLeaseMsMin = 100;
    constexpr std::uint32_t kLeaseMsMax = 600000;
    if (server.lease_ms < kLeaseMsMin || server.lease_ms > kLeaseMsMax) {
        return Error{Code::invalid_input, 0,
                     fmt::format("--lease-ms is {}, it must be {} to {}", server.lease_ms,
                                 kLeaseMsMin, kLeaseMsMax)};
    }
    if (server.versions_kept == 0) {
        return Error{Code::invalid_input, 0, "--versions-kept is 0, it must be 1 or more"};
    }
    return std::optional(std::move(options));
}

Result<void> run(Options options) {
    const cli::SignalWait signals;
    if (!options.token_file.empty()) {
        WEIGHTCAST_TRY(options.server.token, registry::read_token_file(options.token_file));
    }
    if (!options.topology_file.empty()) {
        WEIGHTCAST_CHECK(registry::read_placement(options.topology_file, options.server.placement));
    }
    WEIGHTCAST_TRY(const auto server, registry::Server::start(options.server));
    if (options.json) {
        WEIGHTCAST_CHECK(
            cli::print_line(fmt::format(R"({{"event":"ready","registry":"{}"}})", server->url())));
    } else {
        fmt::print(stderr, "{}: registry at {}, state {}\n", kProgram.name, server->url(),
                   options.server.store_directory.empty() ? std::string("in memory only")
                                                          : "in " + options.server.store_directory);
    }
    signals.wait();
    return success();
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    return weightcast::cli::run_main(weightcast::kProgram, argc, argv, weightcast::parse,
                                     weightcast::run);
}
