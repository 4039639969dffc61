// p2p-channel: shows which version a channel names and named before, and moves it.
#include <fmt/chrono.h>
#include <fmt/core.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "registry/client.h"
#include "tools/cli.h"

namespace weightcast {
namespace {

constexpr cli::Program kProgram{
    "p2p-channel", "shows and moves the channels that readers follow",
    "REGISTRY_URL MODEL[:CHANNEL] [show | set VERSION | rollback [VERSION] | canary VERSION | "
    "promote [CHANNEL]]"};
constexpr const char* kDefaultChannel = "stable";
constexpr std::uint32_t kShown = 20;
constexpr std::uint32_t kSearched = 1000;  // moves, for the version before

struct Options {
    registry::ClientOptions client;
    std::string model;
    std::string channel = kDefaultChannel;
    std::string command = "show";
    std::string argument;
    std::optional<std::uint64_t> expected_generation;
    registry::Canary canary;
    bool limited = false;  // the canary is said to be for some
    std::string who;
    std::string why;
    std::string token_file;
    std::uint32_t count = kShown;
    bool json = false;
};

// USER@HOST.
std::string whoami() {
    std::array<char, 256> host{};
    if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
    const ::passwd* const user = ::getpwuid(::geteuid());
    return fmt::format("{}@{}", user == nullptr ? std::to_string(::geteuid()) : user->pw_name,
                       host.data());
}

Result<std::uint64_t> parse_version(const std::string& text) {
    const std::string digits = text.starts_with('@') ? text.substr(1) : text;
    const bool number = !digits.empty() && digits.size() < 20 &&
                        std::all_of(digits.begin(), digits.end(),
                                    [](char letter) { return letter >= '0' && letter <= '9'; });
    if (!number || digits == "0") {
        return Error{Code::invalid_input, 0, fmt::format("'{}' is not a version", text)};
    }
    return std::stoull(digits);
}

Result<void> check(const Options& options) {
    const auto bad = [](std::string message) {
        return Error{Code::invalid_input, 0, std::move(message)};
    };
    if (options.client.url.empty() || options.model.empty()) {
        return bad("REGISTRY_URL and MODEL are needed");
    }
    if (options.channel.empty()) return bad("the name of the channel is empty");
    const std::string& command = options.command;
    constexpr std::array kCommands = {"show", "set", "rollback", "canary", "promote"};
    if (std::ranges::find(kCommands, command) == kCommands.end()) {
        return bad(fmt::format("'{}' is not show, set, rollback, canary or promote", command));
    }
    const bool versioned = command == "set" || command == "canary";
    if (versioned && options.argument.empty()) return bad(command + " needs a VERSION");
    const bool limited = options.limited;
    if (limited && command != "canary") return bad("--percent and --label are for canary");
    if (command == "canary" && !limited) {
        return bad("canary needs --percent, --label or both: who is to get it");
    }
    if (command == "show" && !options.argument.empty()) return bad("show needs nothing more");
    return success();
}

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    namespace po = boost::program_options;
    Options options;
    std::string name;
    po::options_description known("Options");
    known.add_options()("registry", po::value(&options.client.url), "URL of the registry");
    known.add_options()("channel", po::value(&name),
                        "MODEL, for its channel stable, or MODEL:NAME");
    known.add_options()("command", po::value(&options.command),
                        "show, set, rollback, canary or promote (default: show)");
    known.add_options()("argument", po::value(&options.argument),
                        "of the command: a version, or the channel to promote to");
    std::vector<std::string> labels;
    known.add_options()("percent", po::value(&options.canary.percent),
                        "canary: so many of the replicas get it, chosen by their names");
    known.add_options()("label", po::value(&labels),
                        "canary: only replicas with this label, NAME=VALUE (may be repeated)");
    known.add_options()("expect", po::value<std::uint64_t>(),
                        "do nothing unless the channel is at this generation; 0: does not exist");
    known.add_options()("who", po::value(&options.who), "for the history (default: USER@HOST)");
    known.add_options()("why", po::value(&options.why), "for the history");
    known.add_options()("count", po::value(&options.count), "moves to show (default: 20)");
    known.add_options()("token-file", po::value(&options.token_file), "file with the bearer token");
    known.add_options()("json", po::bool_switch(&options.json), "one JSON object per line");
    po::positional_options_description positional;
    positional.add("registry", 1).add("channel", 1).add("command", 1).add("argument", 1);
    WEIGHTCAST_TRY(const auto values, cli::parse(kProgram, argc, argv, known, positional));
    if (!values) return std::optional<Options>();
    const auto colon = name.find(':');
    options.model = name.substr(0, colon);
    if (colon != std::string::npos) options.channel = name.substr(colon + 1);
    if (values->count("expect") != 0) {
        options.expected_generation = (*values)["expect"].as<std::uint64_t>();
    }
    options.limited = values->count("percent") + values->count("label") > 0;
    for (const std::string& label : labels) {
        const auto equals = label.find('=');
        if (equals == std::string::npos || equals == 0) {
            return Error{Code::invalid_input, 0, fmt::format("'{}' is not NAME=VALUE", label)};
        }
        options.canary.labels[label.substr(0, equals)] = label.substr(equals + 1);
    }
    if (options.who.empty()) options.who = whoami();
    WEIGHTCAST_CHECK(check(options));
    return std::optional(std::move(options));
}

// "canary @9 for 10 % with rack=a".
std::string describe(const registry::Canary& canary) {
    std::string text = fmt::format("canary @{} for {} %", canary.version, canary.percent);
    const char* joint = " with ";
    for (const auto& [label, value] : canary.labels) {
        text += fmt::format("{}{}={}", std::exchange(joint, ", "), label, value);
    }
    return text;
}

void show(const registry::ChannelInfo& channel, const std::string& who, const std::string& why,
          bool json) {
    if (json) {
        boost::json::object event{{"event", "channel"},
                                  {"model", channel.model},
                                  {"channel", channel.channel},
                                  {"version", channel.version},
                                  {"generation", channel.generation},
                                  {"wall_ms", channel.wall_ms},
                                  {"who", who},
                                  {"why", why}};
        if (channel.canary) {
            boost::json::object labels;
            for (const auto& [label, value] : channel.canary->labels) labels[label] = value;
            event["canary"] = boost::json::object{{"version", channel.canary->version},
                                                  {"percent", channel.canary->percent},
                                                  {"labels", std::move(labels)}};
        }
        static_cast<void>(cli::print_line(boost::json::serialize(event)));
        return;
    }
    const auto at = static_cast<std::time_t>(channel.wall_ms / 1000);
    fmt::print("{}:{}  generation {}  @{}{}  {:%Y-%m-%dT%H:%M:%SZ}  {}{}\n", channel.model,
               channel.channel, channel.generation, channel.version,
               channel.canary ? ", " + describe(*channel.canary) : "", fmt::gmtime(at), who,
               why.empty() ? "" : ": " + why);
}

// The moves of a channel, of which there is at least one, oldest first.
Result<std::vector<registry::ChannelMoved>> moves_of(registry::Api& api, const std::string& model,
                                                     const std::string& channel,
                                                     std::uint32_t count) {
    WEIGHTCAST_TRY(auto moves, api.history(model, channel, std::max(1U, count)));
    if (!moves.empty()) return moves;
    return Error{Code::not_found, 0, fmt::format("there is no channel {}:{}", model, channel)};
}

Result<void> move(registry::Api& api, const Options& options, const std::string& channel,
                  std::uint64_t version, std::optional<std::uint64_t> generation,
                  const std::string& why, const std::optional<registry::Canary>& canary = {}) {
    const std::optional<std::uint64_t> expected =
        options.expected_generation ? options.expected_generation : generation;
    const std::string& told = options.why.empty() ? why : options.why;
    WEIGHTCAST_TRY(const auto moved, api.set_channel({options.model, channel, version, expected,
                                                      options.who, told, canary}));
    show(moved, options.who, told, options.json);
    return success();
}

// From a canary back to the channel's version; else to the version that it named before this one.
Result<void> roll_back(registry::Api& api, const Options& options) {
    WEIGHTCAST_TRY(const auto moves, moves_of(api, options.model, options.channel, kSearched));
    const registry::ChannelInfo& now = moves.back().channel;
    const std::string why = fmt::format("rollback from @{}", now.version);
    if (!options.argument.empty()) {
        WEIGHTCAST_TRY(const std::uint64_t version, parse_version(options.argument));
        return move(api, options, options.channel, version, now.generation, why);
    }
    if (now.canary) {
        return move(api, options, options.channel, now.version, now.generation,
                    fmt::format("rollback of {}", describe(*now.canary)));
    }
    const auto before =
        std::find_if(moves.rbegin(), moves.rend(), [&now](const registry::ChannelMoved& moved) {
            return moved.channel.version != now.version;
        });
    if (before == moves.rend()) {
        return Error{Code::not_found, 0,
                     fmt::format("{}:{} has named no version but @{}", options.model,
                                 options.channel, now.version)};
    }
    return move(api, options, options.channel, before->channel.version, now.generation, why);
}

Result<void> begin_canary(registry::Api& api, const Options& options) {
    WEIGHTCAST_TRY(const auto moves, moves_of(api, options.model, options.channel, 1));
    const registry::ChannelInfo& now = moves.back().channel;
    registry::Canary canary = options.canary;
    WEIGHTCAST_TRY(canary.version, parse_version(options.argument));
    return move(api, options, options.channel, now.version, now.generation, describe(canary),
                canary);
}

// The canary's version to all; or this channel's version to another channel.
Result<void> promote(registry::Api& api, const Options& options) {
    WEIGHTCAST_TRY(const auto from, moves_of(api, options.model, options.channel, 1));
    if (options.argument.empty()) {
        const registry::ChannelInfo& now = from.back().channel;
        if (now.canary) {
            return move(api, options, options.channel, now.canary->version, now.generation,
                        fmt::format("promoted {}", describe(*now.canary)));
        }
        return Error{Code::not_found, 0,
                     fmt::format("{}:{} has no canary; to promote its version to another channel, "
                                 "name that",
                                 options.model, options.channel)};
    }
    WEIGHTCAST_TRY(const auto to, api.history(options.model, options.argument, 1));
    return move(api, options, options.argument, from.back().channel.version,
                to.empty() ? 0 : to.back().channel.generation,
                fmt::format("promoted from {}", options.channel));
}

Result<void> run(Options options) {
    if (!options.token_file.empty()) {
        WEIGHTCAST_TRY(options.client.token, registry::read_token_file(options.token_file));
    }
    WEIGHTCAST_TRY(const auto api, registry::connect(options.client));
    if (options.command == "set") {
        WEIGHTCAST_TRY(const std::uint64_t version, parse_version(options.argument));
        return move(*api, options, options.channel, version, std::nullopt, "");
    }
    if (options.command == "rollback") return roll_back(*api, options);
    if (options.command == "canary") return begin_canary(*api, options);
    if (options.command == "promote") return promote(*api, options);
    WEIGHTCAST_TRY(const auto moves, moves_of(*api, options.model, options.channel, options.count));
    for (const auto& [channel, who, why] : moves) show(channel, who, why, options.json);
    return success();
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    return weightcast::cli::run_main(weightcast::kProgram, argc, argv, weightcast::parse,
                                     weightcast::run);
}
