#include "transport/doctor/peer.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/random.h"
#include "transport/doctor/line_channel.h"
#include "transport/doctor/read_trial.h"
#include "transport/open.h"

namespace weightcast::transport::doctor {
namespace {

// For a line that needs no work first; for one before which the peer opens its devices; for one
// before which it tries all fabrics.
constexpr Duration kLinePatience = std::chrono::seconds(5);
constexpr Duration kOpenPatience = std::chrono::seconds(15);
constexpr Duration kTrialPatience = std::chrono::seconds(60);

// Our half of a meeting: the test memory, and the fabrics that let the peer read it.
class Side {
  public:
    static Result<Side> open(const PeerOptions& options, const std::string& listen) {
        Side side;
        side.offer_.incarnation = random_identity();
        side.offer_.seed = random_seed();
        WEIGHTCAST_TRY(side.memory_, SharedMemory::create("doctor", kTestBytes));
        fill_pattern(side.memory_.pages.span(), side.offer_.seed);
        fabric::FabricOptions settings = options.fabric;
        settings.incarnation = side.offer_.incarnation;
        settings.listen = listen;
        for (const std::string& name : options.fabrics) side.add(name, settings);
        return side;
    }

    const Offer& offer() const { return offer_; }

    std::vector<ReadReport> read_from(const Offer& peer, int stop_fd) const {
        std::vector<ReadReport> reports;
        for (std::size_t i = 0; i < offer_.fabrics.size(); ++i) {
            const OfferedFabric& here = offer_.fabrics[i];
            const auto there =
                std::find_if(peer.fabrics.begin(), peer.fabrics.end(),
                             [&here](const OfferedFabric& one) { return one.name == here.name; });
            const std::string error = !here.error.empty() ? here.error
                                      : there == peer.fabrics.end()
                                          ? std::string("the peer does not try it (its --fabric)")
                                      : !there->error.empty() ? "the peer: " + there->error
                                                              : std::string();
            if (!error.empty()) {
                reports.push_back({here.name, error});
                continue;
            }
            reports.push_back(try_read(*opened_[i].fabric, {there->address, peer.incarnation},
                                       there->key, peer.seed, stop_fd));
        }
        return reports;
    }

  private:
    struct Opened {
        std::unique_ptr<fabric::Fabric> fabric;
        std::unique_ptr<fabric::Region> region;
    };

    void add(const std::string& name, const fabric::FabricOptions& settings) {
        OfferedFabric offered{.name = name};
        Opened opened;
        if (const auto result = open_one(name, settings, opened); result) {
            offered.address = opened.fabric->address();
            offered.key = opened.region->key();
        } else {
            offered.error = result.error().message;
        }
        offer_.fabrics.push_back(std::move(offered));
        opened_.push_back(std::move(opened));
    }

    Result<void> open_one(const std::string& name, const fabric::FabricOptions& settings,
                          Opened& opened) const {
        WEIGHTCAST_TRY(auto fabrics, open_fabrics({&name, 1}, {}, settings));
        if (fabrics.empty()) return Error{Code::unavailable, 0, name + " did not open"};
        opened.fabric = std::move(fabrics.front());
        const fabric::Memory memory{.bytes = memory_.pages.span(), .fd = memory_.fd.get()};
        WEIGHTCAST_TRY(opened.region,
                       opened.fabric->register_memory(memory, fabric::Access::remote_read));
        return success();
    }

    Offer offer_;
    SharedMemory memory_;
    std::vector<Opened> opened_;  // one for each offered fabric
};

// Of our fabrics those that the peer tries too: a fabric that only we have is none of its business.
PeerOptions in_common(PeerOptions options, const Offer& peer) {
    const auto is_ours_alone = [&peer](const std::string& name) {
        return std::none_of(peer.fabrics.begin(), peer.fabrics.end(),
                            [&name](const OfferedFabric& one) { return one.name == name; });
    };
    options.fabrics.erase(
        std::remove_if(options.fabrics.begin(), options.fabrics.end(), is_ours_alone),
        options.fabrics.end());
    return options;
}

// The listener's half of a meeting.
Result<PeerReports> answer_peer(LineChannel& channel, const PeerOptions& options, int stop_fd) {
    WEIGHTCAST_TRY(const std::string line, channel.receive(kLinePatience));
    WEIGHTCAST_TRY(const Offer peer, decode_offer(line));
    WEIGHTCAST_TRY(const std::string host, channel.local_host());
    WEIGHTCAST_TRY(const Side side, Side::open(in_common(options, peer), host));
    WEIGHTCAST_CHECK(channel.send(encode(side.offer()), kLinePatience));
    PeerReports reports;
    WEIGHTCAST_TRY(const std::string told, channel.receive(kTrialPatience));
    WEIGHTCAST_TRY(reports.theirs, decode_reports(told));
    reports.ours = side.read_from(peer, stop_fd);
    WEIGHTCAST_CHECK(channel.send(encode(reports.ours), kLinePatience));
    return reports;
}

}  // namespace

Result<PeerReports> meet_peer(const std::string& host, std::uint16_t port,
                              const PeerOptions& options) {
    WEIGHTCAST_TRY(LineChannel channel,
                   LineChannel::connect(host, port, options.from, kLinePatience));
    WEIGHTCAST_TRY(const std::string local, channel.local_host());
    WEIGHTCAST_TRY(const Side side, Side::open(options, local));
    WEIGHTCAST_CHECK(channel.send(encode(side.offer()), kLinePatience));
    WEIGHTCAST_TRY(const std::string line, channel.receive(kOpenPatience));
    WEIGHTCAST_TRY(const Offer peer, decode_offer(line));
    PeerReports reports;
    reports.ours = side.read_from(peer, -1);
    WEIGHTCAST_CHECK(channel.send(encode(reports.ours), kLinePatience));
    WEIGHTCAST_TRY(const std::string told, channel.receive(kTrialPatience));
    WEIGHTCAST_TRY(reports.theirs, decode_reports(told));
    return reports;
}

Result<std::unique_ptr<PeerListener>> PeerListener::start(const std::string& listen,
                                                          PeerOptions options,
                                                          OnMeeting on_meeting) {
    WEIGHTCAST_TRY(Listener listener, listen_on(listen));
    std::unique_ptr<PeerListener> self(
        new PeerListener(std::move(listener), std::move(options), std::move(on_meeting)));
    self->stop_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!self->stop_) return system_error(errno, "eventfd");
    self->thread_ = std::thread([raw = self.get()] { raw->run(); });
    return self;
}

PeerListener::~PeerListener() {
    if (!thread_.joinable()) return;
    ::eventfd_write(stop_.get(), 1);
    thread_.join();
}

void PeerListener::run() {
    while (true) {
        const auto forever = system_clock().now() + std::chrono::hours(24);
        const auto ready = await_ready(listener_.socket.get(), POLLIN, forever, stop_.get());
        if (!ready && ready.error().code == Code::timed_out) continue;
        if (!ready) return;
        SocketAddress peer;
        peer.bytes = sizeof peer.storage;
        UniqueFd socket(::accept4(listener_.socket.get(), peer.get(), &peer.bytes,
                                  SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!socket) {
            // It has hung up already, or descriptors are short: not at once again.
            const auto soon = system_clock().now() + std::chrono::milliseconds(100);
            static_cast<void>(await_ready(-1, 0, soon, stop_.get()));
            continue;
        }
        LineChannel channel(std::move(socket), stop_.get());
        const auto reports = answer_peer(channel, options_, stop_.get());
        if (!reports && reports.error().code == Code::cancelled) return;
        if (!reports) {
            static_cast<void>(channel.send(encode_refusal(reports.error().message), kLinePatience));
        }
        on_meeting_(format_address(peer), reports);
    }
}

}  // namespace weightcast::transport::doctor
