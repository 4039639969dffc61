// p2p-ls: models, versions, channels and peers of a registry, and who holds how much.
#include <fmt/core.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <string>
#include <vector>

#include "registry/client.h"
#include "tools/cli.h"
#include "tools/human.h"

namespace weightcast {
namespace {

constexpr cli::Program kProgram{"p2p-ls", "lists models, versions, channels, peers and holdings",
                                "REGISTRY_URL [MODEL]"};

struct Options {
    registry::ClientOptions client;
    std::string model;
    std::string token_file;
    bool json = false;
};

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    namespace po = boost::program_options;
    Options options;
    po::options_description known("Options");
    known.add_options()("registry", po::value(&options.client.url), "URL of the registry");
    known.add_options()("model", po::value(&options.model), "only this model");
    known.add_options()("token-file", po::value(&options.token_file), "file with the bearer token");
    known.add_options()("json", po::bool_switch(&options.json), "one JSON object per line");
    po::positional_options_description positional;
    positional.add("registry", 1).add("model", 1);
    WEIGHTCAST_TRY(const auto values, cli::parse(kProgram, argc, argv, known, positional));
    if (!values) return std::optional<Options>();
    if (options.client.url.empty()) {
        return Error{Code::invalid_input, 0, "REGISTRY_URL is missing"};
    }
    return std::optional(std::move(options));
}

void print(const boost::json::object& object) {
    static_cast<void>(cli::print_line(boost::json::serialize(object)));
}

void show_model(const registry::ModelInfo& model, bool json) {
    for (const registry::VersionInfo& version : model.versions) {
        std::string channels;
        boost::json::array names;
        for (const registry::ChannelInfo& channel : model.channels) {
            if (channel.version != version.version) continue;
            channels += fmt::format("  :{} (generation {})", channel.channel, channel.generation);
            names.push_back(boost::json::object{{"channel", channel.channel},
                                                {"generation", channel.generation}});
        }
        if (json) {
            print({{"event", "version"},
                   {"model", version.model},
                   {"version", version.version},
                   {"bytes", version.bytes},
                   {"manifest", model::to_string(version.manifest)},
                   {"root", model::to_string(version.root)},
                   {"publisher", version.publisher},
                   {"quarantined", version.quarantined},
                   {"holders_complete", version.holders_complete},
                   {"holders_partial", version.holders_partial},
                   {"channels", std::move(names)}});
            continue;
        }
        fmt::print("{}@{}  {}  {} complete, {} partial holders{}{}\n", version.model,
                   version.version, human_bytes(version.bytes), version.holders_complete,
                   version.holders_partial, channels,
                   version.quarantined ? "  QUARANTINED: its source changed" : "");
    }
}

void show_peer(const registry::PeerSummary& peer, const Options& options) {
    boost::json::array holdings;
    std::string text;
    for (const registry::HoldingSummary& held : peer.holdings) {
        if (!options.model.empty() && held.model != options.model) continue;
        holdings.push_back(boost::json::object{{"model", held.model},
                                               {"version", held.version},
                                               {"complete", held.complete},
                                               {"bytes_held", held.bytes_held}});
        text += fmt::format("  {}@{} {}{}", held.model, held.version, human_bytes(held.bytes_held),
                            held.complete ? "" : " (partial)");
    }
    if (!options.model.empty() && holdings.empty()) return;
    std::string fabrics;
    boost::json::array fabric_names;
    for (const auto& [fabric, address] : peer.addresses) {
        fabrics += (fabrics.empty() ? "" : ",") + fabric;
        fabric_names.emplace_back(fabric);
    }
    if (options.json) {
        print({{"event", "peer"},
               {"id", peer.peer.id},
               {"peer", peer.name},
               {"host", peer.host},
               {"fabrics", std::move(fabric_names)},
               {"readers", peer.readers},
               {"lease_left_ms", peer.lease_left_ms},
               {"holdings", std::move(holdings)}});
        return;
    }
    fmt::print("{} on {}  {}  {} readers{}\n", peer.name, peer.host, fabrics, peer.readers, text);
}

Result<void> run(Options options) {
    if (!options.token_file.empty()) {
        WEIGHTCAST_TRY(options.client.token, registry::read_token_file(options.token_file));
    }
    WEIGHTCAST_TRY(const auto api, registry::connect(options.client));
    WEIGHTCAST_TRY(const auto models, api->list_models());
    WEIGHTCAST_TRY(const auto peers, api->list_peers());
    bool found = options.model.empty();
    for (const registry::ModelInfo& model : models) {
        if (!options.model.empty() && model.model != options.model) continue;
        found = true;
        show_model(model, options.json);
    }
    for (const registry::PeerSummary& peer : peers) show_peer(peer, options);
    if (found) return success();
    return Error{Code::not_found, 0, fmt::format("there is no model {}", options.model)};
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    using namespace weightcast;
    return cli::run_main(kProgram, argc, argv, parse, run);
}
