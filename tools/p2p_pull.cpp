// p2p-pull: pulls a version of a model into a directory, verified, from whoever holds it.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <future>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "tools/cli.h"
#include "tools/human.h"
#include "tools/node_options.h"
#include "transport/open.h"
#include "weightcast/node.h"

namespace weightcast {
namespace {

constexpr cli::Program kProgram{"p2p-pull", "pulls model weights from whoever holds them",
                                "REGISTRY_URL MODEL[@VERSION|:CHANNEL] -o DIR"};

struct Options {
    NodeOptions node;
    PullOptions pull;
    bool serve = false;
    bool follow = false;
    std::uint32_t versions_kept = FollowOptions().versions_kept;
    bool json = false;
};

// Splits "name@3" or "name:canary" into the model and the reference.
void split_reference(const std::string& text, PullOptions& pull) {
    const auto at = text.find_first_of("@:");
    pull.model = text.substr(0, at);
    if (at != std::string::npos) pull.reference = text.substr(at);
}

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
    namespace po = boost::program_options;
    Options options;
    std::string model;
    po::options_description known("Options");
    const auto text = [](std::string& target) { return po::value(&target); };
    known.add_options()("registry", text(options.node.registry), "URL of the registry");
    known.add_options()("model", text(model), "MODEL, MODEL@VERSION or MODEL:CHANNEL");
    known.add_options()("output,o", text(options.pull.directory), "directory to pull into");
    known.add_options()("serve", po::bool_switch(&options.serve),
                        "go on serving to others when done, until SIGINT or SIGTERM");
    known.add_options()("follow", po::bool_switch(&options.follow),
                        "stay current: DIR/vN for each version of the channel, and a link "
                        "DIR/current that moves with it, until SIGINT or SIGTERM");
    known.add_options()("keep", po::value(&options.versions_kept),
                        "versions to keep when following (default: 2)");
    known.add_options()("tensor", po::value(&options.pull.tensors),
                        "only tensors whose name matches this glob (may be repeated); they go to "
                        "DIR/model.safetensors");
    known.add_options()("fabric", po::value(&options.pull.fabrics),
                        "read only over this transport (may be repeated)");
    known.add_options()("listen", text(options.node.listen),
                        "address on which peers reach this one (default: 127.0.0.1)");
    known.add_options()("replace", po::bool_switch(&options.pull.replace),
                        "DIR may hold other files, which are lost");
    known.add_options()("sync", po::bool_switch(&options.pull.sync),
                        "wait until the bytes are on the disk");
    known.add_options()("link-rate-max", po::value(&options.pull.link_rate_max),
                        "bytes/s of this host's port, for the lower bound (default: as the system "
                        "reports it)");
    known.add_options()("no-holder-ms-max", po::value(&options.pull.no_holder_ms_max),
                        "give up after so long without a holder (default: 30000)");
    cli::add_node_options(known, options.node);
    known.add_options()("json", po::bool_switch(&options.json), "one JSON object per event");
    po::positional_options_description positional;
    positional.add("registry", 1).add("model", 1);
    WEIGHTCAST_TRY(const auto values, cli::parse(kProgram, argc, argv, known, positional));
    if (!values) return std::optional<Options>();
    WEIGHTCAST_CHECK(cli::finish_node_options(*values, kProgram, options.node));
    if (options.node.registry.empty() || model.empty()) {
        return Error{Code::invalid_input, 0, "REGISTRY_URL and MODEL are needed"};
    }
    if (options.pull.directory.empty()) return Error{Code::invalid_input, 0, "-o DIR is missing"};
    split_reference(model, options.pull);
    if (values->count("keep") != 0 && !options.follow) {
        return Error{Code::invalid_input, 0, "--keep is for --follow"};
    }
    if (options.versions_kept == 0) {
        return Error{Code::invalid_input, 0, "--keep must be at least 1"};
    }
    options.node.port_rate = static_cast<std::uint64_t>(options.pull.link_rate_max);
    // Opening ucx takes longer than a small pull, and tcp is faster: it is there only when named.
    options.node.fabrics = options.pull.fabrics;
    options.node.fabrics_besides = {"shm", "verbs", "tcp"};
    return std::optional(std::move(options));
}

void print(const std::string& line) { static_cast<void>(cli::print_line(line)); }

class Display {
  public:
    explicit Display(bool json) : json_(json), terminal_(!json && ::isatty(STDERR_FILENO) == 1) {}

    void progress(const PullProgress& now) {
        if (json_) {
            print(boost::json::serialize(boost::json::object{{"event", "progress"},
                                                             {"bytes_total", now.bytes_total},
                                                             {"bytes_done", now.bytes_done},
                                                             {"holders", now.holders},
                                                             {"seconds", now.seconds}}));
            return;
        }
        const auto done = static_cast<double>(now.bytes_done);
        const auto total = static_cast<double>(std::max<std::uint64_t>(1, now.bytes_total));
        // Since the first report, which holds what an earlier attempt had.
        if (start_bytes_ < 0) {
            start_bytes_ = done;
            start_seconds_ = now.seconds;
        }
        const double elapsed = now.seconds - start_seconds_;
        const double rate = elapsed > 0 ? (done - start_bytes_) / elapsed : 0;
        if (!terminal_ && now.seconds < next_line_) return;
        next_line_ = now.seconds + 5;
        const std::string left = rate > 0 ? human_seconds((total - done) / rate) : "?";
        const std::string text =
            fmt::format("{:5.1f} %  {} of {}  {}  {} holder{}  {} left", 100 * done / total,
                        human_bytes(now.bytes_done), human_bytes(now.bytes_total), human_rate(rate),
                        now.holders, now.holders == 1 ? "" : "s", left);
        if (!terminal_) return fmt::print(stderr, "{}\n", text);
        const auto filled = static_cast<std::size_t>(20 * done / total);
        fmt::print(stderr, "\r[{:<20}] {}\033[K", std::string(filled, '='), text);
    }

    // A version that will be tried again. In words it is in the log already.
    void trouble(const Error& error) {
        if (!json_) return;
        print(boost::json::serialize(
            boost::json::object{{"event", "trouble"}, {"message", error.message}}));
    }

    void done(const char* event, const PullReport& report) {
        if (json_) return print(boost::json::serialize(as_json(event, report)));
        if (terminal_) fmt::print(stderr, "\r\033[K");
        std::string shares;
        for (const HolderShare& share : report.holders) {
            shares += fmt::format(
                "  {:5.1f} %  {}  from {} over {}{}\n",
                100 * static_cast<double>(share.bytes) / static_cast<double>(report.bytes_read),
                human_bytes(share.bytes), share.peer, share.fabric,
                share.emulated ? " (emulated)" : "");
        }
        const double rate =
            report.seconds > 0 ? static_cast<double>(report.bytes_read) / report.seconds : 0;
        const std::string reused =
            report.bytes_reused == 0 ? ""
                                     : fmt::format(", {} reused", human_bytes(report.bytes_reused));
        print(fmt::format("{}{}@{}: {} ({} read{}) in {}, {}; lower bound {} by {}, ratio {:.2f}",
                          shares, report.model, report.version, human_bytes(report.bytes),
                          human_bytes(report.bytes_read), reused, human_seconds(report.seconds),
                          human_rate(rate), human_seconds(report.bound_seconds), report.limited_by,
                          report.ratio));
    }

  private:
    static boost::json::object as_json(const char* event, const PullReport& report) {
        boost::json::array holders;
        for (const HolderShare& share : report.holders) {
            holders.push_back(boost::json::object{{"peer", share.peer},
                                                  {"fabric", share.fabric},
                                                  {"emulated", share.emulated},
                                                  {"bytes", share.bytes}});
        }
        return {{"event", event},
                {"model", report.model},
                {"version", report.version},
                {"generation", report.generation},
                {"bytes", report.bytes},
                {"bytes_read", report.bytes_read},
                {"bytes_reused", report.bytes_reused},
                {"bytes_patched", report.bytes_patched},
                {"delta_bytes", report.delta_bytes},
                {"corrupt_chunks", report.corrupt_chunks},
                {"holders_lost", report.holders_lost},
                {"seconds", report.seconds},
                {"registration_seconds", report.registration_seconds},
                {"bound_seconds", report.bound_seconds},
                {"ratio", report.ratio},
                {"limited_by", report.limited_by},
                {"holders", std::move(holders)}};
    }

    bool json_;
    bool terminal_;
    double next_line_ = 1;
    double start_bytes_ = -1;
    double start_seconds_ = 0;
};

// The first SIGINT or SIGTERM ends the pull, what was verified is kept for the next attempt; the
// second ends the process.
class Interrupt {
  public:
    explicit Interrupt(const cli::SignalWait& signals) {
        // Detached, since nothing ends a wait for a signal; what it uses outlives it.
        std::thread([signals, stop = stop_]() mutable {
            signals.wait();
            stop.request_stop();
            signals.wait();
            ::_exit(cli::kFailed);
        }).detach();
    }

    std::stop_token token() const { return stop_.get_token(); }
    // Until the first signal.
    void wait() const {
        std::promise<void> come;
        const std::stop_callback stopping(token(), [&come] { come.set_value(); });
        come.get_future().wait();
    }

  private:
    std::stop_source stop_;
};

Result<void> follow(Node& node, const Options& options, Display& display) {
    FollowOptions follow;
    follow.pull = options.pull;
    follow.versions_kept = options.versions_kept;
    follow.on_flip = [&](const PullReport& report) { display.done("flip", report); };
    follow.on_trouble = [&](const Error& error) { display.trouble(error); };
    return node.follow_directory(follow);
}

Result<void> run(Options options) {
    const cli::SignalWait signals;
    options.node.open_fabrics = transport::open_fabrics;
    Display display(options.json);
    options.pull.on_progress = [&](const PullProgress& now) { display.progress(now); };
    WEIGHTCAST_TRY(const auto node, Node::start(options.node));
    const Interrupt interrupt(signals);
    options.pull.stop = interrupt.token();
    if (options.follow) return follow(*node, options, display);
    WEIGHTCAST_TRY(const PullReport report, node->pull(options.pull));
    display.done("done", report);
    if (options.serve) interrupt.wait();
    return success();
}

}  // namespace
}  // namespace weightcast

int main(int argc, char** argv) {
    using namespace weightcast;
    return cli::run_main(kProgram, argc, argv, parse, run);
}
