// The reader's end of one connection: sends requests, receives payload into place.
//
// Thread-bound. The socket is a non-blocking stream.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "transport/tcp/ring.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {

// Why a connection is of no use any more.
struct Failure {
    fabric::ReadStatus status = fabric::ReadStatus::unreachable;
    std::string text;
};

class ReaderConnection {
  public:
    // `socket` is connecting or connected. The hello is sent first.
    ReaderConnection(UniqueFd socket, const fabric::PeerAddress& peer,
                     const fabric::Incarnation& own, TimePoint now);

    int fd() const { return socket_.get(); }
    std::uint64_t outstanding_bytes() const { return outstanding_bytes_; }
    bool wants_write() const;
    // When this fails for want of progress; nothing if it waits for nothing.
    std::optional<TimePoint> deadline(Duration progress) const;

    // Queues a request; flush() sends it. `target` has `bytes` bytes.
    void request(const RegionId& region, std::uint64_t offset, std::byte* target,
                 std::uint64_t bytes, fabric::ReadTag tag, TimePoint now,
                 const std::optional<Gate>& gate = std::nullopt, std::uint32_t turn = 0);

    // Sends what is queued, as far as the socket takes it.
    std::optional<Failure> flush();
    // Receives about `bytes_max` bytes at most; adds to `done`. The socket then polls as readable
    // when as much has come as is worth the call: bytes that wait are no progress until this is
    // called.
    std::optional<Failure> receive(std::uint64_t bytes_max, TimePoint now,
                                   Ring<fabric::Completion>& done);
    // Completes everything outstanding.
    void fail_all(fabric::ReadStatus status, Ring<fabric::Completion>& done);

    bool watches_write = true;  // for the owner: what the descriptor is watched for

  private:
    struct Pending {
        std::byte* target = nullptr;
        std::uint64_t bytes = 0;
        std::uint64_t received = 0;  // or on its way: a data frame has announced it
        fabric::ReadTag tag;
        std::uint64_t sequence = 0;
    };

    std::optional<Failure> receive_some(std::uint64_t bytes_max, TimePoint now,
                                        Ring<fabric::Completion>& done);
    // Lets the socket wake us at the end of the payload that is on its way and not at each packet.
    void wake_at_end();
    std::optional<Failure> take_frames(Ring<fabric::Completion>& done);
    std::optional<Failure> take_welcome();
    std::optional<Failure> take_frame(const Frame& frame, Ring<fabric::Completion>& done);
    std::optional<Failure> take_end(const Frame& frame, Ring<fabric::Completion>& done);
    void take_payload(std::size_t bytes);
    bool idle() const { return pending_.empty() && gated_.empty(); }
    // Null if nothing gated with this sequence is outstanding.
    Pending* find_gated(std::uint64_t sequence);
    // The outstanding request that a frame with this sequence may answer now, or null.
    Pending* find_answered(std::uint64_t sequence);

    UniqueFd socket_;
    const fabric::Incarnation expected_;
    bool open_ = false;  // the holder has answered the hello
    TimePoint progress_;
    Ring<Pending> pending_;       // without a gate: answered in this order
    std::vector<Pending> gated_;  // answered in any order
    std::uint64_t outstanding_bytes_ = 0;
    std::uint64_t sequence_sent_ = 0;
    std::optional<std::uint64_t> answered_;  // the sequence whose answer has begun

    std::vector<std::byte> output_;  // the hello is not part of it
    std::size_t output_first_ = 0;
    std::array<std::byte, kHelloBytes> hello_;
    std::size_t hello_first_ = 0;

    std::array<std::byte, 4096> head_;  // frames, and the beginning of the payload behind them
    std::size_t head_bytes_ = 0;
    // Payload of the last data frame that has not come yet, and where it goes.
    std::size_t slice_bytes_ = 0;
    std::byte* slice_target_ = nullptr;
    int wake_bytes_ = 1;  // that must wait in the socket for it to poll as readable
};

}  // namespace weightcast::transport::tcp
