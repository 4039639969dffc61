// p2p-doctor: what of RDMA works on this host and why not, and a trial of it with another host.
#include <fmt/core.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <string>
#include <vector>

#include "tools/cli.h"
#include "tools/human.h"
#include "transport/doctor/examine.h"
#include "transport/doctor/peer.h"
#include "transport/open.h"

namespace weightcast {
namespace {

using transport::doctor::Finding;
using transport::doctor::PeerReports;
using transport::doctor::ReadReport;
using transport::doctor::Severity;

constexpr cli::Program kProgram{
    "p2p-doctor", "tells whether RDMA works on this host, or with another one, and why not",
    "[--peer HOST[:PORT] | --listen ADDRESS[:PORT]] [--fabric NAME]..."};

struct HostPort {
    std::string host;
    std::uint16_t port = transport::doctor::kPeerPort;
};

struct Options {
    std::optional<HostPort> peer;
    std::optional<HostPort> listen;
    transport::doctor::PeerOptions trial;
    bool json = false;
};

// HOST, HOST:PORT, [IPV6] or [IPV6]:PORT. Errors: invalid_input.
Result<HostPort> parse_host(const std::string& text) {
    HostPort result;
    const bool bracketed = !text.empty() && text.front() == '[';
    const auto end = bracketed ? text.find(']') : text.find(':');
    result.host = bracketed ? text.substr(1, end - 1) : text.substr(0, end);
    std::string_view rest = end == std::string::npos
                                ? std::string_view()
                                : std::string_view(text).substr(bracketed ? end + 1 : end);
    bool good = !result.host.empty() && (!bracketed || end != std::string::npos);
    if (!rest.empty()) {
        const char* const last = rest.data() + rest.size();
        const auto parsed = std::from_chars(rest.data() + 1, last, result.port);
        good = good && rest.front() == ':' && parsed.ec == std::errc() && parsed.ptr == last;
    }
    if (good) return result;
    return Error{Code::invalid_input, 0,
                 fmt::format("\"{}\" is not HOST, HOST:PORT or [IPV6]:PORT", text)};
}

Result<void> check(const Options& options, bool trial_options) {
    if (options.peer && options.listen) {
        return Error{Code::invalid_input, 0, "--peer and --listen exclude each other"};
    }
    if (!options.trial.from.empty() && !options.peer) {
        return Error{Code::invalid_input, 0, "--from goes with --peer"};
    }
    if (trial_options && !options.peer && !options.listen) {
        return Error{Code::invalid_input, 0, "--fabric and --device go with --peer or --listen"};
    }
    if (options.trial.fabrics.size() > transport::doctor::kFabricsMax) {
        return Error{Code::invalid_input, 0,
                     fmt::format("at most {} fabrics", transport::doctor::kFabricsMax)};
    }
    const auto known = transport::built_in();
    for (const std::string& name : options.trial.fabrics) {
        if (std::find(known.begin(), known.end(), name) == known.end()) {
            return Error{Code::invalid_input, 0, "there is no fabric named " + name};
        }
    }
    return success();
}

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    namespace po = boost::program_options;
    Options options;
    std::string peer;
    std::string listen;
    po::options_description known("Options");
    known.add_options()("peer", po::value(&peer),
                        "HOST[:PORT] of a p2p-doctor --listen: read its memory and let it read "
                        "ours (default port: 7071)");
    known.add_options()("listen", po::value(&listen),
                        "ADDRESS[:PORT] at which to meet a p2p-doctor --peer, until a signal");
    known.add_options()("from", po::value(&options.trial.from),
                        "numeric address of this host to meet the peer from");
    known.add_options()("fabric", po::value<std::vector<std::string>>(),
                        "what to try with the peer (may be repeated; default: verbs)");
    known.add_options()("device", po::value(&options.trial.fabric.devices),
                        "RDMA device to try, NAME[:PORT][@GID] (may be repeated; default: that of "
                        "the address)");
    known.add_options()("json", po::bool_switch(&options.json), "one JSON object per line");
    WEIGHTCAST_TRY(const auto values, cli::parse(kProgram, argc, argv, known));
    if (!values) return std::optional<Options>();
    if (values->count("peer") != 0) {
        WEIGHTCAST_TRY(options.peer, parse_host(peer));
    }
    if (values->count("listen") != 0) {
        WEIGHTCAST_TRY(options.listen, parse_host(listen));
    }
    const bool names_fabrics = values->count("fabric") != 0;
    if (names_fabrics) {
        options.trial.fabrics = values->at("fabric").as<std::vector<std::string>>();
    }
    WEIGHTCAST_CHECK(check(options, names_fabrics || values->count("device") != 0));
    return std::optional(std::move(options));
}

void print(const boost::json::object& object) {
    static_cast<void>(cli::print_line(boost::json::serialize(object)));
}

Result<void> examine(const Options& options) {
    const auto findings = transport::doctor::examine(transport::doctor::gather_facts());
    std::string topic;
    for (const Finding& one : findings) {
        const char* const severity = to_string(one.severity);
        if (options.json) {
            print({{"event", "finding"},
                   {"severity", severity},
                   {"topic", one.topic},
                   {"text", one.text},
                   {"advice", one.advice}});
            continue;
        }
        if (topic != one.topic) static_cast<void>(cli::print_line(one.topic));
        topic = one.topic;
        static_cast<void>(cli::print_line(fmt::format("  {:<8} {}", severity, one.text)));
        if (!one.advice.empty()) {
            static_cast<void>(cli::print_line(fmt::format("             {}", one.advice)));
        }
    }
    const auto errors = std::count_if(findings.begin(), findings.end(), [](const Finding& one) {
        return one.severity == Severity::error;
    });
    if (errors == 0) return success();
    return Error{Code::unavailable, 0, fmt::format("RDMA does not work here (errors: {})", errors)};
}

void show_read(const ReadReport& read, const std::string& peer, bool by_us, bool json) {
    if (json) {
        print({{"event", "read"},
               {"peer", peer},
               {"by", by_us ? "us" : "peer"},
               {"fabric", read.fabric},
               {"ok", read.error.empty()},
               {"error", read.error},
               {"bytes_per_second", static_cast<std::uint64_t>(read.bytes_per_second)},
               {"latency_ns", static_cast<std::uint64_t>(read.latency_us * 1e3)}});
        return;
    }
    const std::string what = by_us ? "we read from " + peer : peer + " reads from us";
    static_cast<void>(cli::print_line(
        read.error.empty() ? fmt::format("ok     {}: {}, {}, {:.1f} us for 8 bytes", read.fabric,
                                         what, human_rate(read.bytes_per_second), read.latency_us)
                           : fmt::format("FAILED {}: {}: {}", read.fabric, what, read.error)));
}

// Errors: unavailable (a read failed).
Result<void> show(const PeerReports& reports, const std::string& peer, bool json) {
    std::size_t failed = 0;
    for (const bool by_us : {true, false}) {
        for (const ReadReport& read : by_us ? reports.ours : reports.theirs) {
            show_read(read, peer, by_us, json);
            if (!read.error.empty()) ++failed;
        }
    }
    if (failed == 0) return success();
    return Error{Code::unavailable, 0, fmt::format("{} of the trials failed", failed)};
}

Result<void> listen(const Options& options) {
    const cli::SignalWait signals;
    const auto on_meeting = [&options](const std::string& peer, const Result<PeerReports>& met) {
        if (met) {
            static_cast<void>(show(met.value(), peer, options.json));
        } else {
            cli::complain(kProgram, {met.error().code, 0, peer + ": " + met.error().message});
        }
    };
    const HostPort& at = *options.listen;
    const bool six = at.host.find(':') != std::string::npos;
    const std::string host = six ? "[" + at.host + "]" : at.host;
    WEIGHTCAST_TRY(const auto listener,
                   transport::doctor::PeerListener::start(fmt::format("{}:{}", host, at.port),
                                                          options.trial, on_meeting));
    if (options.json) {
        print(boost::json::object{{"event", "ready"}, {"address", listener->address()}});
    } else {
        static_cast<void>(cli::print_line(
            fmt::format("listening; try it with:  p2p-doctor --peer {}", listener->address())));
    }
    signals.wait();
    return success();
}

Result<void> run(const Options& options) {
    if (options.listen) return listen(options);
    if (!options.peer) return examine(options);
    WEIGHTCAST_TRY(const auto reports, transport::doctor::meet_peer(
                                           options.peer->host, options.peer->port, options.trial));
    return show(reports, options.peer->host, options.json);
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    using namespace weightcast;
    return cli::run_main(kProgram, argc, argv, parse, run);
}
