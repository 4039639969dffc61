// The holder's end of one connection: takes requests, pushes the bytes of regions.
//
// Thread-bound. The socket is a non-blocking stream.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "transport/tcp/parked_requests.h"
#include "transport/tcp/region_table.h"
#include "transport/tcp/ring.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {

class ServerConnection {
  public:
    // Requests that wait here at most, for their gates or to be answered; a reader that sends more
    // waits in its own socket.
    static constexpr std::size_t kRequestsMax = 1024;

    ServerConnection(UniqueFd socket, const fabric::Incarnation& own, RegionTable& regions,
                     TimePoint accepted);

    TimePoint accepted() const { return accepted_; }
    bool greeted() const { return state_ != State::greeting; }

    // The socket was reported readable, writable. Both are remembered until it would block.
    void mark_readable(bool ending) {
        readable_ = true;
        ending_ = ending;
    }
    void mark_writable() { writable_ = true; }

    // Takes what the reader has sent, up to the limits; gated requests are parked, whatever their
    // gates are. False: close the connection.
    bool receive();
    // Requests whose gates are not known to be open.
    std::size_t parked() const { return parked_.size(); }
    // Of the latest gated request.
    std::uint32_t turn() const { return turn_; }
    // Looks at the gates of the requests that were parked since the last look, or of all.
    void look_at_new_gates() { parked_.look_at_new(requests_); }
    void look_at_gates() { parked_.look(requests_); }
    // Sends a waiting frame if requests are parked and nothing was sent since the last call, nor
    // is being sent. False: close the connection.
    bool say_waiting();
    // True if send() can make progress now.
    bool can_send() const;
    // Sends at most `payload_bytes_max` payload bytes, with the frames around them; adds those sent
    // to `payload_sent`, before the reader can know that it has them.
    // False: close the connection. REQUIRES: can_send()
    bool send(std::uint64_t payload_bytes_max, std::atomic<std::uint64_t>& payload_sent);

    // For the server:
    std::uint64_t id = 0;
    bool queued = false;  // waits for its turn
    bool listed = false;  // among those with parked requests

  private:
    enum class State { greeting, open, closing };
    enum class Sent { some, blocked, fault, failed };

    bool parse_input();
    bool greet();
    void append_frame(FrameKind kind, std::uint32_t value, std::uint64_t sequence);
    void fill_head();
    void end_request(EndStatus status);
    EndStatus check(const Answerable& answerable);
    Sent send_memory(std::span<const std::byte> payload, std::atomic<std::uint64_t>& payload_sent);
    Sent send_file(int fd, std::uint64_t offset, std::size_t bytes,
                   std::atomic<std::uint64_t>& payload_sent);
    Sent send_payload(std::size_t bytes, std::atomic<std::uint64_t>& payload_sent);
    void cork(bool on);
    // What the socket took, of the head first.
    void consume(std::size_t bytes, std::atomic<std::uint64_t>& payload_sent);

    UniqueFd socket_;
    const fabric::Incarnation own_;
    RegionTable& regions_;
    const TimePoint accepted_;
    State state_ = State::greeting;
    bool readable_ = true;
    bool ending_ = false;  // the peer sends no more
    bool writable_ = true;
    bool corked_ = false;

    std::array<std::byte, 64 * kRequestBytes> input_;
    std::size_t input_bytes_ = 0;
    ParkedRequests parked_;
    std::uint32_t turn_ = 0;
    Ring<Answerable> requests_;

    // Output: frames not sent yet, then the payload of the last of them.
    std::array<std::byte, 8 * kFrameBytes> head_;
    std::size_t head_first_ = 0;
    std::size_t head_last_ = 0;
    bool sent_ = false;                  // since say_waiting() was called
    bool active_ = false;                // requests_.front() is being answered
    EndStatus outcome_ = EndStatus::ok;  // of the active request; else zeros are sent
    std::uint64_t answered_bytes_ = 0;   // of the active request
    std::size_t slice_bytes_ = 0;        // payload that the last data frame still lacks
};

}  // namespace weightcast::transport::tcp
