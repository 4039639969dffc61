#include "transport/verbs/lane.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::ReadStatus;

// A completion is asked for at least this often.
constexpr std::uint64_t kSignalBytes = 256U << 10U;
constexpr std::uint32_t kSignalPieces = 16;
// The device answers what it holds within its retries.
constexpr auto kDrainMax = std::chrono::seconds(1);
constexpr int kPollBatch = 16;

}  // namespace

Lane::Lane(const Rail& rail, Place place, PieceSink& sink)
    : rail_(rail),
      place_(place),
      sink_(sink),
      window_(rail.choice(), rail.message_bytes_max()),
      ring_(kDepth) {}

Lane::~Lane() { WEIGHTCAST_ASSERT(head_ == tail_); }

void Lane::open(const Target& target, ::ibv_comp_channel* channel, TimePoint now) {
    WEIGHTCAST_ASSERT(state_ == State::down && head_ == tail_);
    progress_ = now;
    failure_ = {};
    queue_.reset(::ibv_create_cq(rail_.context(), kDepth, this, channel, 0));
    Error trouble;
    if (!queue_) {
        trouble = system_error(errno, "ibv_create_cq on " + rail_.name());
    } else if (auto pair = QueuePair::create(rail_, queue_.get(), kDepth)) {
        pair_ = std::move(pair).value();
    } else {
        trouble = std::move(pair).error();
    }
    if (!pair_) {
        failure_ = {ReadStatus::unreachable, std::move(trouble.message), false};
        ++failures;
        return;
    }
    Hello hello;
    hello.rail = static_cast<std::uint8_t>(place_.remote_rail);
    hello.mtu = static_cast<std::uint8_t>(rail_.mtu());
    hello.expected = target.expected;
    hello.reader = target.reader;
    hello.lane = place_.number;
    hello.generation = ++generation_;
    hello.probe_key = rail_.probe_key();
    connector_ = target.cm ? connect_by_cm(pair_, hello, *target.cm, target.options)
                           : connect_out_of_band(pair_, hello, *target.control, target.options);
    state_ = State::connecting;
    on_ready(now);
}

void Lane::on_ready(TimePoint now) {
    if (!connector_) return;
    if (connector_->state() == Connector::State::connecting ||
        connector_->state() == Connector::State::connected) {
        connector_->advance();
    }
    if (state_ == State::connecting && connector_->state() == Connector::State::connected) {
        state_ = State::ready;
        progress_ = now;
        // Small reads keep the device busy, and the next ones are there when it is done.
        pieces_max_ = std::clamp<std::uint32_t>(4U * connector_->read_depth(), 16, kDepth);
    }
    const bool over = connector_->state() == Connector::State::failed ||
                      connector_->state() == Connector::State::lost;
    if (over && (state_ == State::connecting || state_ == State::ready)) {
        fail({connector_->status(), connector_->error(), false}, now);
    }
}

double Lane::room() const {
    if (state_ != State::ready || outstanding() >= pieces_max_) return 0;
    const std::uint64_t used = std::min(window_.bytes(), outstanding_bytes_);
    return 1 - static_cast<double>(used) / static_cast<double>(window_.bytes());
}

void Lane::stage(const Piece& piece, const PieceAddresses& addresses) {
    WEIGHTCAST_ASSERT(staged_ < kBatch && outstanding() < kDepth);
    ::ibv_sge& gather = gathers_[staged_];
    gather = {addresses.local, piece.bytes, addresses.local_key};
    ::ibv_send_wr& request = requests_[staged_];
    request.wr_id = tail_;
    request.next = nullptr;
    request.sg_list = &gather;
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_READ;
    request.send_flags = 0;
    request.wr.rdma.remote_addr = addresses.remote;
    request.wr.rdma.rkey = addresses.remote_key;
    if (staged_ > 0) requests_[staged_ - 1].next = &request;
    ++staged_;
    ring_[tail_++ % kDepth] = piece;
    outstanding_bytes_ += piece.bytes;
    if (outstanding_bytes_ >= window_.bytes()) window_.on_full();
    unsignalled_bytes_ += piece.bytes;
    if (++unsignalled_ >= kSignalPieces || unsignalled_bytes_ >= kSignalBytes) {
        request.send_flags = IBV_SEND_SIGNALED;
        unsignalled_ = 0;
        unsignalled_bytes_ = 0;
    }
}

void Lane::post(TimePoint now) {
    if (staged_ == 0) return;
    if (tail_ - head_ == staged_) {
        progress_ = now;
        window_.restart(now);
    }
    // Each batch ends with a completion, so that none is waited for in vain.
    requests_[staged_ - 1].send_flags = IBV_SEND_SIGNALED;
    unsignalled_ = 0;
    unsignalled_bytes_ = 0;
    ::ibv_send_wr* refused = nullptr;
    const int failure = ::ibv_post_send(pair_.get(), requests_.data(), &refused);
    const auto count = std::exchange(staged_, 0);
    if (failure == 0) return;
    // What was not posted has no completion.
    const auto posted = static_cast<std::uint64_t>(refused - requests_.data());
    const std::uint64_t end = tail_ - count + posted;
    while (tail_ > end) {
        const Piece piece = ring_[--tail_ % kDepth];
        outstanding_bytes_ -= piece.bytes;
        sink_.on_piece(piece, PieceOutcome::again);
    }
    fail({ReadStatus::unreachable,
          system_error(failure, "ibv_post_send on " + rail_.name()).message, false},
         now);
}

void Lane::arm() {
    if (queue_ && outstanding() > 0) ::ibv_req_notify_cq(queue_.get(), 0);
}

std::size_t Lane::poll(TimePoint now) {
    if (!queue_) return 0;
    const std::uint64_t before = head_;
    const std::uint64_t bytes_before = outstanding_bytes_;
    std::array<::ibv_wc, kPollBatch> completions;
    int count = kPollBatch;
    while (count == kPollBatch && head_ != tail_) {
        count = ::ibv_poll_cq(queue_.get(), kPollBatch, completions.data());
        for (int i = 0; i < count; ++i) settle(completions[static_cast<std::size_t>(i)], now);
    }
    const std::uint64_t settled = head_ - before;
    if (settled > 0) window_.on_settled(bytes_before - outstanding_bytes_, now);
    if (state_ == State::draining && head_ == tail_) close();
    return settled;
}

// Completions come in order, so what was not signalled before one that succeeded has succeeded too.
// Before one that failed that would be so as well, but drivers differ: it is read once more.
void Lane::settle(const ::ibv_wc& completion, TimePoint now) {
    if (completion.wr_id < head_ || completion.wr_id >= tail_) return;
    const bool succeeded = completion.status == IBV_WC_SUCCESS;
    while (head_ < completion.wr_id) pop(succeeded ? PieceOutcome::ok : PieceOutcome::again);
    progress_ = now;
    PieceOutcome outcome = PieceOutcome::again;
    switch (completion.status) {
        case IBV_WC_SUCCESS:
            failures = 0;
            return pop(PieceOutcome::ok);
        case IBV_WC_REM_ACCESS_ERR:
        case IBV_WC_REM_INV_REQ_ERR:
            outcome = PieceOutcome::denied;
            break;
        case IBV_WC_REM_OP_ERR:
            outcome = PieceOutcome::remote_fault;
            break;
        default:
            break;
    }
    pop(outcome);
    if (state_ != State::draining) fail(describe(completion), now);
}

LaneFailure Lane::describe(const ::ibv_wc& completion) const {
    const bool one_read =
        completion.status == IBV_WC_REM_ACCESS_ERR || completion.status == IBV_WC_REM_INV_REQ_ERR ||
        completion.status == IBV_WC_REM_OP_ERR || completion.status == IBV_WC_LOC_PROT_ERR;
    std::string text =
        fmt::format("{} over {} (vendor error {:#x})", ::ibv_wc_status_str(completion.status),
                    rail_.name(), completion.vendor_err);
    if (completion.status == IBV_WC_RETRY_EXC_ERR) text = "the peer does not answer: " + text;
    return {ReadStatus::unreachable, std::move(text), one_read};
}

void Lane::pop(PieceOutcome outcome) {
    const Piece piece = ring_[head_++ % kDepth];
    outstanding_bytes_ -= piece.bytes;
    sink_.on_piece(piece, outcome);
}

void Lane::fail(LaneFailure failure, TimePoint now) {
    if (state_ == State::down || state_ == State::draining) return;
    failure_ = std::move(failure);
    ++failures;
    state_ = State::draining;
    drain_deadline_ = now + kDrainMax;
    // Makes the device give back what it holds. A pair that has failed already does so by itself.
    if (head_ != tail_) static_cast<void>(pair_.to_error());
    if (head_ == tail_) close();
}

void Lane::close() {
    if (head_ != tail_) {
        log(LogLevel::info, "verbs: {} did not give back {} reads of a failed queue pair",
            rail_.name(), outstanding());
    }
    // Once the pair is destroyed the device writes nothing for it any more.
    connector_.reset();
    pair_.reset();
    queue_.reset();
    staged_ = 0;
    unsignalled_ = 0;
    unsignalled_bytes_ = 0;
    state_ = State::down;
    while (head_ < tail_) pop(PieceOutcome::again);
}

}  // namespace weightcast::transport::verbs
