// p2p-serve: publishes files and serves them, with a registry inside unless one is named.
#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <memory>
#include <string>
#include <vector>

#include "registry/client.h"
#include "registry/server.h"
#include "tools/cli.h"
#include "tools/human.h"
#include "tools/node_options.h"
#include "transport/open.h"
#include "weightcast/node.h"

namespace weightcast {
namespace {

constexpr cli::Program kProgram{"p2p-serve", "publishes model weights and serves them to peers",
                                "PATH... --model NAME"};

struct Options {
    std::vector<std::string> paths;
    NodeOptions node;
    PublishOptions publish;
    registry::ServerOptions server;
    bool json = false;
};

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    namespace po = boost::program_options;
    Options options;
    std::string listen;
    po::options_description known("Options");
    const auto text = [](std::string& target) { return po::value(&target); };
    known.add_options()("path", po::value(&options.paths), "files or directories to publish");
    known.add_options()("model", text(options.publish.model), "name of the model");
    known.add_options()("version", po::value(&options.publish.version),
                        "number of the version (default: the newest if its bytes are the same, "
                        "else the next)");
    known.add_options()("channel", text(options.publish.channel),
                        "channel that a new version moves, empty for none (default: stable)");
    known.add_options()("deltas-from", po::value(&options.publish.deltas_from),
                        "files or directory of an earlier version: publish what changed since, too "
                        "(may be repeated)");
    known.add_options()("registry", text(options.node.registry),
                        "URL of the registry (default: one inside this process)");
    known.add_options()("listen", text(listen),
                        "HOST:PORT of the registry inside, HOST of the transports "
                        "(default: 127.0.0.1:7070)");
    known.add_options()("store", text(options.server.store_directory),
                        "directory of the inside registry's durable state (default: memory only)");
    known.add_options()("fabric", po::value(&options.node.fabrics),
                        "use only this transport (may be repeated)");
    known.add_options()("chunk-bytes", po::value(&options.publish.chunk_bytes),
                        "a power of two, 65536 to 16777216 (default: 1048576)");
    cli::add_node_options(known, options.node);
    known.add_options()("json", po::bool_switch(&options.json), "one JSON object per event");
    po::positional_options_description positional;
    positional.add("path", -1);
    WEIGHTCAST_TRY(const auto values, cli::parse(kProgram, argc, argv, known, positional));
    if (!values) return std::optional<Options>();
    WEIGHTCAST_CHECK(cli::finish_node_options(*values, kProgram, options.node));
    if (options.paths.empty()) return Error{Code::invalid_input, 0, "no PATH is given"};
    if (options.publish.model.empty()) return Error{Code::invalid_input, 0, "--model is missing"};
    if (!listen.empty()) {
        options.server.listen = listen.find(':') == std::string::npos ? listen + ":7070" : listen;
        options.node.listen = options.server.listen.substr(0, options.server.listen.rfind(':'));
    }
    return std::optional(std::move(options));
}

// A registry that listens everywhere is reached from elsewhere by this host's name.
std::string url_for_others(const std::string& url) {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) return url;
    for (const std::string_view wildcard : {"//0.0.0.0:", "//[::]:"}) {
        const auto at = url.find(wildcard);
        if (at == std::string::npos) continue;
        return fmt::format("http://{}:{}", name.data(), url.substr(at + wildcard.size()));
    }
    return url;
}

void announce(const Options& options, const Published& published, const std::string& registry) {
    if (options.json) {
        const boost::json::object event{{"event", "ready"},
                                        {"registry", registry},
                                        {"model", published.model},
                                        {"version", published.version},
                                        {"bytes", published.bytes},
                                        {"created", published.created},
                                        {"delta_bytes", published.delta_bytes},
                                        {"manifest", published.manifest},
                                        {"registration_seconds", published.registration_seconds}};
        static_cast<void>(cli::print_line(boost::json::serialize(event)));
        return;
    }
    const std::string deltas = published.delta_bytes == 0
                                   ? ""
                                   : fmt::format(", {} changed since the earlier version",
                                                 human_bytes(published.delta_bytes));
    static_cast<void>(cli::print_line(
        fmt::format("serving {}@{}, {}, {}{}\npull it with:  p2p-pull {} {} -o ./{}",
                    published.model, published.version, human_bytes(published.bytes),
                    published.created ? "published now" : "published before", deltas,
                    url_for_others(registry), published.model, published.model)));
}

Result<void> run(Options options) {
    const cli::SignalWait signals;
    if (!options.node.token_file.empty()) {
        WEIGHTCAST_TRY(options.server.token, registry::read_token_file(options.node.token_file));
    }
    std::unique_ptr<registry::Server> server;
    if (options.node.registry.empty()) {
        WEIGHTCAST_TRY(server, registry::Server::start(options.server));
        options.node.registry = server->url();
    }
    options.node.open_fabrics = transport::open_fabrics;
    WEIGHTCAST_TRY(const auto node, Node::start(options.node));
    WEIGHTCAST_TRY(const Published published, node->publish(options.paths, options.publish));
    announce(options, published, options.node.registry);
    signals.wait();
    return success();
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    using namespace weightcast;
    return cli::run_main(kProgram, argc, argv, parse, run);
}
