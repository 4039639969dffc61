#include "tools/plan_options.h"

#include <fmt/core.h>

#include <algorithm>
#include <boost/program_options/value_semantic.hpp>
#include <fstream>
#include <sstream>

#include "tools/plan_units.h"

namespace weightcast::plan_tool {
namespace {

namespace po = boost::program_options;

constexpr std::uint32_t kReceiversMax = 65535;  // peers of a registry, with the source
constexpr std::uint64_t kChunkBytes = std::uint64_t{1} << 20U;
constexpr std::uint64_t kBlocksDefaultMax = 1024;

// As they stand on the command line.
struct Texts {
    std::string command, topology, bytes, chunk_bytes;
    std::string port = "0", uplink = "0", local = "0";
    std::string block_cost = "0", metadata_delay = "200us", latency = "5us", detection = "500ms";
    std::uint32_t receivers = 0, ranks_per_host = 1, racks = 1, blocks = 0, stripes = 0;
    bool poll = false;
};

po::options_description describe(Texts& texts, Options& options) {
    sim::SimulationOptions& s = options.simulation;
    po::options_description known("Options");
    const auto text = [](std::string& to) { return po::value(&to)->value_name("ARG"); };
    const auto number = [](auto& to) { return po::value(&to)->value_name("N"); };
    auto add = known.add_options();
    add("command", text(texts.command), "simulate or show");
    add("bytes", text(texts.bytes), "size of what each receiver gets, e.g. 1T, 8G, 128Mi");
    add("receivers", number(texts.receivers), "a fleet of so many equals beside one source");
    add("ranks-per-host", number(texts.ranks_per_host), "of that fleet");
    add("racks", number(texts.racks), "of that fleet, with as many hosts each");
    add("port", text(texts.port), "rate of a rank's port each way, e.g. 48GB/s, 200Mbit/s");
    add("uplink", text(texts.uplink), "rate of a rack's uplink each way");
    add("local", text(texts.local), "rate between the ranks of a host, in all");
    add("topology", text(texts.topology), "file that describes the fleet instead");
    add("blocks", number(texts.blocks), "equal pieces that the bytes are moved in");
    add("chunk-bytes", text(texts.chunk_bytes), "size of a piece instead");
    add("block-cost", text(texts.block_cost),
        "time that a piece takes of a port besides its bytes");
    add("metadata-delay", text(texts.metadata_delay), "of a request to the registry");
    add("latency", text(texts.latency), "of the network, one way");
    add("stripes", number(texts.stripes),
        "of the plan for each rank of a host; the registry's choice if not given");
    add("poll", po::bool_switch(&texts.poll), "holders do not let reads wait for chunks");
    add("deaths", number(s.deaths), "fraction of the receivers that die");
    add("death-at", number(s.death_at), "when, as a fraction of the lower bound");
    add("detection", text(texts.detection), "until a reader knows that its holder is dead");
    add("joiners", number(s.joiners), "fraction of the receivers that start later");
    add("stragglers", number(s.stragglers), "fraction of the receivers with slow ports");
    add("straggler-rate", number(s.straggler_rate), "of their ports to the others'");
    add("seed", number(s.seed), "of all that is random");
    add("json", po::bool_switch(&options.json), "one JSON object per line");
    add("svg", text(options.svg), "file to draw the plan's trees in");
    add("time-space", text(options.time_space),
        "file to draw in which receiver of a simulated pull got which part when");
    return known;
}

Result<plan::Topology> read_topology(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) return Error{Code::io, 0, fmt::format("cannot read the topology {}", path)};
    return plan::parse_topology(text.str());
}

Result<plan::Topology> make_topology(const Texts& texts) {
    if (!texts.topology.empty()) {
        if (texts.receivers != 0) {
            return Error{Code::invalid_input, 0, "--receivers and --topology exclude each other"};
        }
        return read_topology(texts.topology);
    }
    if (texts.receivers < 1 || texts.receivers > kReceiversMax) {
        return Error{Code::invalid_input, 0,
                     fmt::format("--receivers {} is not 1 to {}, and there is no --topology",
                                 texts.receivers, kReceiversMax)};
    }
    if (texts.ranks_per_host < 1 || texts.racks < 1 || texts.racks > texts.receivers + 1) {
        return Error{Code::invalid_input, 0,
                     fmt::format("--ranks-per-host {} and --racks {} must be at least 1, and no "
                                 "more racks than ranks",
                                 texts.ranks_per_host, texts.racks)};
    }
    plan::FleetOptions fleet;
    fleet.receivers = texts.receivers;
    fleet.ranks_per_host = texts.ranks_per_host;
    fleet.racks = texts.racks;
    WEIGHTCAST_TRY(fleet.port, parse_rate("port", texts.port));
    WEIGHTCAST_TRY(fleet.uplink, parse_rate("uplink", texts.uplink));
    WEIGHTCAST_TRY(fleet.local, parse_rate("local", texts.local));
    return plan::make_fleet(fleet);
}

bool takes_time(const sim::SimulationOptions& simulation) {
    const plan::Topology& topology = simulation.topology;
    const auto has_port = [](const plan::RankSpec& rank) { return rank.up > 0 || rank.down > 0; };
    const auto has_memory = [](const plan::HostSpec& host) { return host.local > 0; };
    const auto has_uplink = [](const plan::RackSpec& rack) { return rack.up > 0 || rack.down > 0; };
    return simulation.chunk_cost > Duration::zero() ||
           std::ranges::any_of(topology.ranks, has_port) ||
           std::ranges::any_of(topology.hosts, has_memory) ||
           std::ranges::any_of(topology.racks, has_uplink);
}

Result<void> set_blocks(const Texts& texts, sim::SimulationOptions& simulation) {
    WEIGHTCAST_TRY(simulation.bytes, parse_size("bytes", texts.bytes));
    if (simulation.bytes == 0) return Error{Code::invalid_input, 0, "--bytes must not be 0"};
    simulation.chunks = texts.blocks;
    if (!texts.chunk_bytes.empty()) {
        WEIGHTCAST_TRY(const auto size, parse_size("chunk-bytes", texts.chunk_bytes));
        if (size == 0 || texts.blocks != 0 || (simulation.bytes - 1) / size >= UINT32_MAX) {
            return Error{Code::invalid_input, 0,
                         fmt::format("--chunk-bytes {} is too small, or stands beside --blocks",
                                     texts.chunk_bytes)};
        }
        simulation.chunks = static_cast<std::uint32_t>((simulation.bytes - 1) / size + 1);
    } else if (texts.blocks == 0) {
        const std::uint64_t chunks = (simulation.bytes - 1) / kChunkBytes + 1;
        simulation.chunks = static_cast<std::uint32_t>(std::min(chunks, kBlocksDefaultMax));
    }
    return success();
}

}  // namespace

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    Options options;
    Texts texts;
    po::positional_options_description positional;
    positional.add("command", 1);
    WEIGHTCAST_TRY(const auto values,
                   cli::parse(kProgram, argc, argv, describe(texts, options), positional));
    if (!values) return std::optional<Options>();
    options.show = texts.command == "show";
    if (!options.show && texts.command != "simulate") {
        return Error{Code::invalid_input, 0,
                     fmt::format("'{}' is neither simulate nor show", texts.command)};
    }
    if (!options.show && !(options.svg.empty() && options.time_space.empty())) {
        return Error{Code::invalid_input, 0, "--svg and --time-space belong to show"};
    }
    sim::SimulationOptions& simulation = options.simulation;
    if (texts.bytes.empty()) return Error{Code::invalid_input, 0, "--bytes is missing"};
    WEIGHTCAST_CHECK(set_blocks(texts, simulation));
    WEIGHTCAST_TRY(simulation.topology, make_topology(texts));
    WEIGHTCAST_TRY(simulation.chunk_cost, parse_time("block-cost", texts.block_cost));
    WEIGHTCAST_TRY(simulation.metadata_delay, parse_time("metadata-delay", texts.metadata_delay));
    WEIGHTCAST_TRY(simulation.latency, parse_time("latency", texts.latency));
    WEIGHTCAST_TRY(simulation.detection, parse_time("detection", texts.detection));
    simulation.can_wait = !texts.poll;
    if (texts.stripes != 0) {
        simulation.registry.stripes_min = texts.stripes;
        simulation.registry.stripes_max = texts.stripes;
    }
    simulation.keep_arrivals = !options.time_space.empty();
    WEIGHTCAST_CHECK(sim::check(simulation));
    if (!takes_time(simulation) && (!options.show || simulation.keep_arrivals)) {
        return Error{Code::invalid_input, 0,
                     "a pull by this fleet takes no time: no port, host or uplink has a rate "
                     "(--port, or those of --topology)"};
    }
    return std::optional(std::move(options));
}

}  // namespace weightcast::plan_tool
