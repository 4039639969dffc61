// Two doctors try real reads of each other's memory. They meet over a TCP connection, say what may
// be read, read it in turn, and tell each other how it went.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/socket.h"
#include "fabric/fabric.h"
#include "transport/doctor/peer_wire.h"
#include "weightcast/result.h"

namespace weightcast::transport::doctor {

inline constexpr std::uint16_t kPeerPort = 7071;

struct PeerOptions {
    std::vector<std::string> fabrics{"verbs"};
    std::string from;  // numeric address of ours to meet a peer from; empty: the system chooses
    // Of each fabric. `incarnation` and `listen` are set for each meeting: a fabric serves at the
    // address that the connection to the peer has here.
    fabric::FabricOptions fabric;
};

// One for each fabric that a side tries: all of its list, or as the listener, those that the peer
// tries too.
struct PeerReports {
    std::vector<ReadReport> ours;    // of our reads from the peer
    std::vector<ReadReport> theirs;  // of the peer's reads from us
};

// Meets the doctor that listens at `host` (a name or numeric), and tries each fabric.
// Errors: not_found (no such host), unavailable, timed_out, refused (with the peer's reason),
// invalid_input (that is no doctor).
Result<PeerReports> meet_peer(const std::string& host, std::uint16_t port,
                              const PeerOptions& options);

// Meets whoever connects, one at a time, on a thread of its own, until it is destroyed. Serves
// nothing but the test memory. Every wait for a peer has a deadline.
class PeerListener {
  public:
    // Called on the listener's thread with the peer's address and how the meeting went.
    using OnMeeting = std::function<void(const std::string&, const Result<PeerReports>&)>;

    // `listen` is HOST:PORT or [IPV6]:PORT, numeric; port 0 is any free one.
    // Errors: invalid_input, io.
    static Result<std::unique_ptr<PeerListener>> start(const std::string& listen,
                                                       PeerOptions options, OnMeeting on_meeting);
    ~PeerListener();
    PeerListener(const PeerListener&) = delete;
    PeerListener& operator=(const PeerListener&) = delete;

    // With the port that was bound.
    std::string address() const { return format_address(listener_.address); }

  private:
    PeerListener(Listener listener, PeerOptions options, OnMeeting on_meeting)
        : listener_(std::move(listener)),
          options_(std::move(options)),
          on_meeting_(std::move(on_meeting)) {}
    void run();

    Listener listener_;
    PeerOptions options_;
    OnMeeting on_meeting_;
    UniqueFd stop_;  // an eventfd
    std::thread thread_;
};

}  // namespace weightcast::transport::doctor
