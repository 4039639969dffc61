// A lane: one connection of a link, over one rail of ours to one of the holder's. It posts pieces
// of reads and says what became of each, exactly once. Thread-bound; allocates nothing after
// open().
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "fabric/fabric.h"
#include "transport/verbs/connector.h"
#include "transport/verbs/queue_pair.h"

namespace weightcast::transport::verbs {

// Part of a read that is one work request.
struct Piece {
    std::uint32_t operation = 0;
    std::uint32_t bytes = 0;
    std::uint64_t offset = 0;  // in the read
};

enum class PieceOutcome : std::uint8_t {
    ok,
    again,         // nothing is known to be wrong with it: read it once more
    denied,        // the holder's device refused the key or the range
    remote_fault,  // the holder's device could not carry it out
};

// What the device is told of a piece.
struct PieceAddresses {
    std::uint64_t local = 0;
    std::uint64_t remote = 0;
    std::uint32_t local_key = 0;
    std::uint32_t remote_key = 0;
};

class PieceSink {
  public:
    virtual ~PieceSink() = default;
    virtual void on_piece(const Piece& piece, PieceOutcome outcome) = 0;
};

// How much a lane keeps outstanding, and in how large pieces. A port's rate sets the most: 500 us
// of it, much longer than a round trip and a turn of the thread take, in pieces of 1 MiB, which
// cost few requests. What the lane is seen to get of that rate, when it shares the ports with
// others, sets less: what waits at the holder for long is sent again by the devices' retries, and
// comes too late to be read elsewhere. Pure.
class LaneWindow {
  public:
    explicit LaneWindow(const RailChoice& choice, std::uint64_t message_bytes_max);

    std::uint64_t bytes() const { return bytes_; }
    std::uint32_t piece_bytes() const { return piece_bytes_; }
    // The lane was idle until now.
    void restart(TimePoint now);
    // The lane has as much outstanding as the window takes. Only what is settled at such times
    // tells how fast it is.
    void on_full() { was_full_ = true; }
    void on_settled(std::uint64_t bytes, TimePoint now);

  private:
    void set(double bytes);

    const std::uint64_t bytes_max_;
    const std::uint64_t piece_bytes_max_;
    std::uint64_t bytes_ = 0;
    std::uint32_t piece_bytes_ = 0;
    TimePoint period_start_{};
    std::uint64_t period_bytes_ = 0;
    bool was_full_ = false;
};

// Why a lane went down.
struct LaneFailure {
    fabric::ReadStatus status = fabric::ReadStatus::unreachable;
    std::string text;
    bool harmless = false;  // one read was at fault, and not the peer or the way to it
};

class Lane {
  public:
    enum class State : std::uint8_t {
        down,
        connecting,
        ready,
        draining,  // failed; the device still holds pieces
    };
    struct Place {
        std::uint32_t number = 0;     // of the lane, in this process
        std::size_t rail = 0;         // of ours
        std::size_t remote_rail = 0;  // of the holder's
    };

    Lane(const Rail& rail, Place place, PieceSink& sink);
    // REQUIRES: down
    ~Lane();
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    // How to reach the holder: exactly one of the two addresses.
    struct Target {
        fabric::Incarnation expected{};
        fabric::Incarnation reader{};
        std::optional<SocketAddress> cm;
        std::optional<SocketAddress> control;
        ConnectorOptions options;
    };
    // From down to connecting, or still down with a failure(). `channel` tells of completions
    // once arm() was called.
    void open(const Target& target, ::ibv_comp_channel* channel, TimePoint now);

    State state() const { return state_; }
    const LaneFailure& failure() const { return failure_; }
    const Place& place() const { return place_; }
    const Rail& rail() const { return rail_; }
    std::uint32_t piece_bytes() const { return window_.piece_bytes(); }
    const Connector* connector() const { return connector_.get(); }

    // The connector's descriptor is ready.
    void on_ready(TimePoint now);
    // The part of the window that is free, 0 to 1: lanes that are filled to the same part are done
    // at about the same time.
    double room() const;
    // REQUIRES: room() > 0
    void stage(const Piece& piece, const PieceAddresses& addresses);
    // Posts what was staged, with one doorbell.
    void post(TimePoint now);
    // Takes up completions. Gives the number of pieces that were settled.
    std::size_t poll(TimePoint now);
    void arm();
    std::uint32_t outstanding() const { return static_cast<std::uint32_t>(tail_ - head_); }
    // When the last piece was settled, or the first of those outstanding was posted.
    TimePoint progress() const { return progress_; }

    // Goes down, as soon as the device holds no piece any more.
    void fail(LaneFailure failure, TimePoint now);
    // Goes down at once: ends a draining that takes too long.
    void close();
    TimePoint drain_deadline() const { return drain_deadline_; }

    std::uint32_t failures = 0;  // in a row, without a piece that was read
    TimePoint retry_at{};        // while down

  private:
    static constexpr std::uint32_t kDepth = 256;
    static constexpr std::uint32_t kBatch = 32;

    void settle(const ::ibv_wc& completion, TimePoint now);
    void pop(PieceOutcome outcome);
    LaneFailure describe(const ::ibv_wc& completion) const;

    const Rail& rail_;
    const Place place_;
    PieceSink& sink_;
    LaneWindow window_;
    State state_ = State::down;
    std::uint32_t generation_ = 0;
    LaneFailure failure_;
    TimePoint progress_{};
    TimePoint drain_deadline_{};

    QueueHandle queue_;
    QueuePair pair_;
    std::unique_ptr<Connector> connector_;

    std::vector<Piece> ring_;  // outstanding pieces, piece i at i % kDepth
    std::uint64_t head_ = 0;
    std::uint64_t tail_ = 0;
    std::uint64_t outstanding_bytes_ = 0;
    std::uint32_t pieces_max_ = kDepth;
    std::uint32_t staged_ = 0;
    std::uint32_t unsignalled_ = 0;
    std::uint64_t unsignalled_bytes_ = 0;
    std::array<::ibv_send_wr, kBatch> requests_{};
    std::array<::ibv_sge, kBatch> gathers_{};
};

}  // namespace weightcast::transport::verbs
