#include "transport/tcp/reader_connection.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace weightcast::transport::tcp {
namespace {

using fabric::Completion;
using fabric::ReadStatus;

// Waiting for more would only keep them out of the processor's cache.
constexpr std::size_t kWakeBytesMax = 128U << 10U;

bool would_block(int sys_errno) {
    return sys_errno == EAGAIN || sys_errno == EWOULDBLOCK || sys_errno == EINTR;
}

Failure broken(const char* call, int sys_errno) {
    return {ReadStatus::unreachable,
            fmt::format("{}: {}", call, std::system_category().message(sys_errno))};
}

Failure malformed(const char* what) {
    return {ReadStatus::unreachable, fmt::format("the peer sent {}", what)};
}

ReadStatus to_read_status(EndStatus status) {
    switch (status) {
        case EndStatus::ok:
            return ReadStatus::ok;
        case EndStatus::access_denied:
            return ReadStatus::access_denied;
        case EndStatus::remote_fault:
            return ReadStatus::remote_fault;
    }
    return ReadStatus::unreachable;
}

}  // namespace

ReaderConnection::ReaderConnection(UniqueFd socket, const fabric::PeerAddress& peer,
                                   const fabric::Incarnation& own, TimePoint now)
    : socket_(std::move(socket)), expected_(peer.incarnation), progress_(now) {
    encode(Hello{kProtocolVersion, peer.incarnation, own}, hello_);
}

bool ReaderConnection::wants_write() const {
    return hello_first_ < hello_.size() || (open_ && output_first_ < output_.size());
}

std::optional<TimePoint> ReaderConnection::deadline(Duration progress) const {
    if (open_ && idle()) return std::nullopt;
    return progress_ + progress;
}

void ReaderConnection::request(const RegionId& region, std::uint64_t offset, std::byte* target,
                               std::uint64_t bytes, fabric::ReadTag tag, TimePoint now,
                               const std::optional<Gate>& gate, std::uint32_t turn) {
    if (open_ && idle()) progress_ = now;
    const Pending pending{target, bytes, 0, tag, sequence_sent_};
    if (gate) {
        gated_.push_back(pending);
    } else {
        pending_.push(pending);
    }
    outstanding_bytes_ += bytes;
    if (output_first_ == output_.size()) {
        output_.clear();
        output_first_ = 0;
    }
    const std::size_t at = output_.size();
    output_.resize(at + kRequestBytes + (gate ? kGateBytes : 0));
    const RequestKind kind = gate ? RequestKind::gated_read : RequestKind::read;
    encode(Request{kind, sequence_sent_++, region, offset, bytes, turn},
           std::span<std::byte, kRequestBytes>(&output_[at], kRequestBytes));
    if (!gate) return;
    encode(*gate, std::span<std::byte, kGateBytes>(&output_[at + kRequestBytes], kGateBytes));
}

std::optional<Failure> ReaderConnection::flush() {
    while (wants_write()) {
        const bool greeting = hello_first_ < hello_.size();
        const std::byte* data = greeting ? &hello_[hello_first_] : &output_[output_first_];
        const std::size_t bytes =
            greeting ? hello_.size() - hello_first_ : output_.size() - output_first_;
        const ssize_t sent = ::send(socket_.get(), data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (would_block(errno) || errno == ENOTCONN) return std::nullopt;
            // What the peer sent before it closed is more telling, so receive() decides.
            if (errno == EPIPE || errno == ECONNRESET) return std::nullopt;
            return broken("send", errno);
        }
        (greeting ? hello_first_ : output_first_) += static_cast<std::size_t>(sent);
    }
    return std::nullopt;
}

std::optional<Failure> ReaderConnection::receive(std::uint64_t bytes_max, TimePoint now,
                                                 Ring<Completion>& done) {
    auto failure = receive_some(bytes_max, now, done);
    if (!failure) wake_at_end();
    return failure;
}

void ReaderConnection::wake_at_end() {
    // A frame follows all payload, whether or not the holder can still read what it serves.
    const int bytes = slice_bytes_ == 0
                          ? 1
                          : static_cast<int>(std::min(slice_bytes_ + kFrameBytes, kWakeBytesMax));
    if (bytes == wake_bytes_) return;
    wake_bytes_ = bytes;
    static_cast<void>(::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes));
}

std::optional<Failure> ReaderConnection::receive_some(std::uint64_t bytes_max, TimePoint now,
                                                      Ring<Completion>& done) {
    std::uint64_t received = 0;
    while (received < bytes_max) {
        std::array<::iovec, 2> parts{};
        std::size_t direct = 0;
        if (slice_bytes_ > 0) {
            direct = static_cast<std::size_t>(
                std::min<std::uint64_t>(slice_bytes_, bytes_max - received));
            parts[0] = {slice_target_, direct};
        }
        const bool whole = direct == slice_bytes_;
        parts[1] = {&head_[head_bytes_], whole ? head_.size() - head_bytes_ : 0};
        ::msghdr message{};
        message.msg_iov = direct > 0 ? parts.data() : &parts[1];
        message.msg_iovlen = direct > 0 && whole ? 2 : 1;
        const ssize_t result = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
        if (result == 0) return Failure{ReadStatus::unreachable, "the peer closed the connection"};
        if (result < 0) {
            if (errno == EINTR) continue;
            if (would_block(errno)) return std::nullopt;
            return broken(open_ ? "recv" : "connect", errno);
        }
        progress_ = now;
        const auto got = static_cast<std::size_t>(result);
        received += got;
        take_payload(std::min(got, direct));
        head_bytes_ += got - std::min(got, direct);
        if (auto failure = take_frames(done)) return failure;
        // A short read has emptied the socket.
        if (got < direct + parts[1].iov_len) return std::nullopt;
    }
    return std::nullopt;
}

void ReaderConnection::take_payload(std::size_t bytes) {
    slice_target_ += bytes;
    slice_bytes_ -= bytes;
}

std::optional<Failure> ReaderConnection::take_frames(Ring<Completion>& done) {
    std::size_t used = 0;
    if (!open_) {
        if (head_bytes_ < kWelcomeBytes) return std::nullopt;
        if (auto failure = take_welcome()) return failure;
        used = kWelcomeBytes;
    }
    while (true) {
        if (slice_bytes_ > 0) {
            const std::size_t bytes = std::min(slice_bytes_, head_bytes_ - used);
            if (bytes == 0) break;
            std::memcpy(slice_target_, &head_[used], bytes);
            take_payload(bytes);
            used += bytes;
            continue;
        }
        if (head_bytes_ - used < kFrameBytes) break;
        const auto frame =
            decode_frame(std::span<const std::byte, kFrameBytes>(&head_[used], kFrameBytes));
        if (!frame) return malformed("a malformed frame");
        if (auto failure = take_frame(*frame, done)) return failure;
        used += kFrameBytes;
    }
    std::copy(head_.data() + used, head_.data() + head_bytes_, head_.data());
    head_bytes_ -= used;
    return std::nullopt;
}

std::optional<Failure> ReaderConnection::take_welcome() {
    const auto welcome =
        decode_welcome(std::span<const std::byte, kWelcomeBytes>(head_.data(), kWelcomeBytes));
    if (!welcome) return malformed("something else than a welcome");
    if (welcome->status == WelcomeStatus::wrong_protocol) {
        return malformed("that it speaks another protocol version");
    }
    if (welcome->status == WelcomeStatus::stale_peer || welcome->incarnation != expected_) {
        return Failure{ReadStatus::stale_peer, "another incarnation answers at this address"};
    }
    open_ = true;
    return flush();
}

ReaderConnection::Pending* ReaderConnection::find_gated(std::uint64_t sequence) {
    const auto found = std::ranges::find(gated_, sequence, &Pending::sequence);
    return found == gated_.end() ? nullptr : &*found;
}

ReaderConnection::Pending* ReaderConnection::find_answered(std::uint64_t sequence) {
    if (answered_.value_or(sequence) != sequence) return nullptr;
    if (!pending_.empty() && pending_.front().sequence == sequence) return &pending_.front();
    return find_gated(sequence);
}

std::optional<Failure> ReaderConnection::take_frame(const Frame& frame, Ring<Completion>& done) {
    if (frame.kind == FrameKind::waiting) {
        // Else a holder that has nothing to wait for could put off the deadline for ever.
        if (find_gated(frame.sequence) == nullptr) return malformed("that it waits for nothing");
        return std::nullopt;
    }
    if (frame.kind == FrameKind::end) return take_end(frame, done);
    Pending* pending = find_answered(frame.sequence);
    if (pending == nullptr) return malformed("an answer that nothing asked for");
    if (frame.value > pending->bytes - pending->received) return malformed("too many bytes");
    answered_ = frame.sequence;
    slice_bytes_ = frame.value;
    slice_target_ = pending->target + pending->received;
    pending->received += frame.value;
    return std::nullopt;
}

std::optional<Failure> ReaderConnection::take_end(const Frame& frame, Ring<Completion>& done) {
    Pending* pending = find_answered(frame.sequence);
    if (pending == nullptr) return malformed("an answer that nothing asked for");
    const ReadStatus status = to_read_status(static_cast<EndStatus>(frame.value));
    if (status == ReadStatus::ok && pending->received != pending->bytes) {
        return malformed("too few bytes");
    }
    answered_.reset();
    done.push({pending->tag, status});
    outstanding_bytes_ -= pending->bytes;
    if (!pending_.empty() && pending == &pending_.front()) {
        pending_.pop();
    } else {
        *pending = gated_.back();
        gated_.pop_back();
    }
    return std::nullopt;
}

void ReaderConnection::fail_all(ReadStatus status, Ring<Completion>& done) {
    for (; !pending_.empty(); pending_.pop()) done.push({pending_.front().tag, status});
    for (const Pending& pending : gated_) done.push({pending.tag, status});
    gated_.clear();
    outstanding_bytes_ = 0;
    slice_bytes_ = 0;
}

}  // namespace weightcast::transport::tcp
