// A reader's connection to one holder: its handshake, and the regions that were opened through it.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/shm/remote_region.h"

namespace weightcast::transport::shm {

// Thread-bound. Never blocks.
class Link {
  public:
    // What came of progress: jobs whose region is open now, and those that failed.
    struct Outcome {
        std::vector<std::pair<std::shared_ptr<RemoteRegion>, Job>> runnable;
        std::vector<fabric::Completion> failed;
    };

    Link(const fabric::PeerAddress& peer, const fabric::Incarnation& self, Duration patience);
    // The socket to wait on, -1 if there is none.
    int socket() const { return socket_.get(); }
    // Starts or repeats the connection. REQUIRES: now is not before the construction
    void connect(TimePoint now, Outcome& outcome);
    // Handles packets that have come and deadlines that have passed.
    void progress(TimePoint now, Outcome& outcome);
    // Queues a job for the region with this key.
    void add(const Key& key, const Job& job, TimePoint now, Outcome& outcome);
    // Jobs that wait for a region complete with `status`.
    void drop_waiting(fabric::ReadStatus status, Outcome& outcome);
    void fail(fabric::ReadStatus status, std::string error, Outcome& outcome);

    // Asks for the region if that was not done yet, and gives its present state. Shared with the
    // jobs of the fabric that copy from it, because a revoked region is forgotten here at once.
    // REQUIRES: !has_failed()
    std::shared_ptr<RemoteRegion> want(const Key& key, TimePoint now, Outcome& outcome);
    void forget(const Key& key) { regions_.erase(key); }

    bool has_failed() const { return state_ == State::failed; }
    bool is_connecting() const { return state_ == State::connecting; }
    fabric::ReadStatus status() const { return status_; }
    const std::string& error() const { return error_; }
    void set_error(std::string error) { error_ = std::move(error); }
    HolderView holder() const;
    // The earliest deadline; TimePoint::max() if there is none.
    TimePoint deadline() const;

  private:
    enum class State { connecting, greeting, up, failed };

    Result<void> start_socket();
    void handle(std::span<const std::byte> packet, UniqueFd fd, TimePoint now, Outcome& outcome);
    void handle_hello(const HelloReply& reply, const UniqueFd& fd, Outcome& outcome);
    void handle_region(const OpenReply& reply, UniqueFd fd, Outcome& outcome);
    void ask(TimePoint now, Outcome& outcome);
    void forget_revoked();

    const fabric::PeerAddress peer_;
    const fabric::Incarnation self_;
    const Duration patience_;
    State state_ = State::connecting;
    fabric::ReadStatus status_ = fabric::ReadStatus::ok;
    std::string error_;
    TimePoint deadline_ = TimePoint::max();  // of the handshake
    UniqueFd socket_;
    UniqueFd process_;
    int process_id_ = 0;
    Mapping control_;
    std::map<Key, std::shared_ptr<RemoteRegion>> regions_;
    std::deque<std::shared_ptr<RemoteRegion>> to_ask_;
    std::size_t asked_ = 0;
};

}  // namespace weightcast::transport::shm
