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
    if (open_ && pending_.empty()) return std::nullopt;
    return progress_ + progress;
}

bool ReaderConnection::has_input() const {
    std::byte byte{};
    return ::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

void ReaderConnection::request(const RegionId& region, std::uint64_t offset, std::byte* target,
                               std::uint64_t bytes, fabric::ReadTag tag, TimePoint now) {
    if (open_ && pending_.empty()) progress_ = now;
    pending_.push({target, bytes, 0, tag});
    outstanding_bytes_ += bytes;
    if (output_first_ == output_.size()) {
        output_.clear();
        output_first_ = 0;
    }
    const std::size_t at = output_.size();
    output_.resize(at + kRequestBytes);
    encode(Request{sequence_sent_++, region, offset, bytes},
           std::span<std::byte, kRequestBytes>(&output_[at], kRequestBytes));
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
    std::uint64_t received = 0;
    while (received < bytes_max) {
        std::array<::iovec, 2> parts{};
        std::size_t direct = 0;
        if (slice_bytes_ > 0) {
            direct = static_cast<std::size_t>(
                std::min<std::uint64_t>(slice_bytes_, bytes_max - received));
            parts[0] = {pending_.front().target + pending_.front().received, direct};
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
    if (bytes == 0) return;
    pending_.front().received += bytes;
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
            std::memcpy(pending_.front().target + pending_.front().received, &head_[used], bytes);
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

std::optional<Failure> ReaderConnection::take_frame(const Frame& frame, Ring<Completion>& done) {
    if (pending_.empty() || frame.sequence != sequence_done_) {
        return malformed("an answer that nothing asked for");
    }
    const Pending& front = pending_.front();
    if (frame.kind == FrameKind::data) {
        if (frame.value > front.bytes - front.received) return malformed("too many bytes");
        slice_bytes_ = frame.value;
        return std::nullopt;
    }
    const ReadStatus status = to_read_status(static_cast<EndStatus>(frame.value));
    if (status == ReadStatus::ok && front.received != front.bytes) {
        return malformed("too few bytes");
    }
    done.push({front.tag, status});
    outstanding_bytes_ -= front.bytes;
    pending_.pop();
    ++sequence_done_;
    return std::nullopt;
}

void ReaderConnection::fail_all(ReadStatus status, Ring<Completion>& done) {
    for (; !pending_.empty(); pending_.pop()) done.push({pending_.front().tag, status});
    outstanding_bytes_ = 0;
    slice_bytes_ = 0;
}

}  // namespace weightcast::transport::tcp
