#include "transport/tcp/server_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weightcast::transport::tcp {
namespace {

// Stands for bytes that cannot be read any more; the end frame then says so.
constexpr std::array<std::byte, 65536> kZeros{};

}  // namespace

ServerConnection::ServerConnection(UniqueFd socket, const fabric::Incarnation& own,
                                   RegionTable& regions, TimePoint accepted)
    : socket_(std::move(socket)),
      own_(own),
      regions_(regions),
      accepted_(accepted),
      parked_(regions) {}

bool ServerConnection::receive() {
    while (readable_ && state_ != State::closing) {
        const std::size_t held = requests_.size() + parked_.size();
        if (held + input_.size() / kRequestBytes > kRequestsMax) return true;
        const ssize_t got = ::recv(socket_.get(), input_.data() + input_bytes_,
                                   input_.size() - input_bytes_, MSG_DONTWAIT);
        if (got == 0) return false;
        if (got < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK) return false;
            readable_ = false;
            return true;
        }
        // A short read has emptied the socket, but for the end of the stream.
        if (!ending_ && static_cast<std::size_t>(got) < input_.size() - input_bytes_) {
            readable_ = false;
        }
        input_bytes_ += static_cast<std::size_t>(got);
        if (!parse_input()) return false;
    }
    return true;
}

bool ServerConnection::parse_input() {
    std::size_t used = 0;
    if (state_ == State::greeting) {
        if (input_bytes_ < kHelloBytes) return true;
        if (!greet()) return false;
        used = kHelloBytes;
    }
    while (state_ == State::open && input_bytes_ - used >= kRequestBytes) {
        const auto request =
            decode_request(std::span<const std::byte, kRequestBytes>(&input_[used], kRequestBytes));
        if (!request) return false;
        if (request->kind == RequestKind::read) {
            requests_.push({*request});
            used += kRequestBytes;
            continue;
        }
        if (input_bytes_ - used < kRequestBytes + kGateBytes) break;
        parked_.add(*request, decode_gate(std::span<const std::byte, kGateBytes>(
                                  &input_[used + kRequestBytes], kGateBytes)));
        turn_ = request->turn;
        used += kRequestBytes + kGateBytes;
    }
    std::copy(input_.data() + used, input_.data() + input_bytes_, input_.data());
    input_bytes_ -= used;
    return true;
}

bool ServerConnection::greet() {
    const auto hello = decode_hello(std::span<const std::byte, kHelloBytes>(input_.data(), 48));
    if (!hello) return false;
    Welcome welcome;
    welcome.incarnation = own_;
    if (hello->protocol != kProtocolVersion) {
        welcome.status = WelcomeStatus::wrong_protocol;
    } else if (hello->expected != own_) {
        welcome.status = WelcomeStatus::stale_peer;
    }
    state_ = welcome.status == WelcomeStatus::ok ? State::open : State::closing;
    encode(welcome, std::span<std::byte, kWelcomeBytes>(head_.data(), kWelcomeBytes));
    head_last_ = kWelcomeBytes;
    return true;
}

bool ServerConnection::can_send() const {
    return writable_ &&
           (head_first_ < head_last_ || active_ || !requests_.empty() || state_ == State::closing);
}

EndStatus ServerConnection::check(const Answerable& answerable) {
    if (answerable.denied) return EndStatus::access_denied;
    const Request& request = answerable.request;
    const RegionTable::Serving region(regions_, request.region);
    if (!region || !is_inside(*region, request)) return EndStatus::access_denied;
    if (!region->fd_may_shrink) return EndStatus::ok;
    struct ::stat file {};
    if (::fstat(region->fd, &file) != 0) return EndStatus::remote_fault;
    const std::uint64_t last = region->fd_offset + request.offset + request.bytes;
    return last <= static_cast<std::uint64_t>(file.st_size) ? EndStatus::ok
                                                            : EndStatus::remote_fault;
}

void ServerConnection::append_frame(FrameKind kind, std::uint32_t value, std::uint64_t sequence) {
    encode(Frame{kind, value, sequence},
           std::span<std::byte, kFrameBytes>(&head_[head_last_], kFrameBytes));
    head_last_ += kFrameBytes;
}

void ServerConnection::end_request(EndStatus status) {
    append_frame(FrameKind::end, static_cast<std::uint32_t>(status),
                 requests_.front().request.sequence);
    requests_.pop();
    active_ = false;
}

// Appends frames to the head up to and with the next data frame.
void ServerConnection::fill_head() {
    if (slice_bytes_ > 0) return;
    if (head_first_ == head_last_) head_first_ = head_last_ = 0;
    while (head_.size() - head_last_ >= 2 * kFrameBytes) {
        if (!active_) {
            if (requests_.empty()) return;
            active_ = true;
            answered_bytes_ = 0;
            outcome_ = check(requests_.front());
            if (outcome_ != EndStatus::ok) {
                end_request(outcome_);
                continue;
            }
        }
        const Request& request = requests_.front().request;
        slice_bytes_ = static_cast<std::size_t>(
            std::min<std::uint64_t>(kSliceBytesMax, request.bytes - answered_bytes_));
        append_frame(FrameKind::data, static_cast<std::uint32_t>(slice_bytes_), request.sequence);
        return;
    }
}

bool ServerConnection::send(std::uint64_t payload_bytes_max,
                            std::atomic<std::uint64_t>& payload_sent) {
    fill_head();
    const auto bytes =
        static_cast<std::size_t>(std::min<std::uint64_t>(slice_bytes_, payload_bytes_max));
    Sent sent = bytes > 0 ? send_payload(bytes, payload_sent) : send_memory({}, payload_sent);
    if (sent == Sent::fault) {
        outcome_ = EndStatus::remote_fault;
        sent = send_payload(bytes, payload_sent);
    }
    const bool sliced = sent == Sent::some && active_ && slice_bytes_ == 0;
    if (sliced &&
        (outcome_ != EndStatus::ok || answered_bytes_ == requests_.front().request.bytes)) {
        head_first_ = head_last_ = 0;
        end_request(outcome_);
        sent = send_memory({}, payload_sent);
    }
    if (corked_ && head_first_ == head_last_ && slice_bytes_ == 0) cork(false);
    if (sent == Sent::blocked) writable_ = false;
    if (sent == Sent::failed || sent == Sent::fault) return false;
    return state_ != State::closing || head_first_ < head_last_;
}

bool ServerConnection::say_waiting() {
    if (std::exchange(sent_, false) || parked_.empty()) return true;
    // What is on its way, or waits for the socket, tells the reader as much.
    if (!writable_ || slice_bytes_ > 0 || head_first_ < head_last_) return true;
    head_first_ = head_last_ = 0;
    append_frame(FrameKind::waiting, 0, parked_.oldest_sequence());
    std::atomic<std::uint64_t> none = 0;
    return send(0, none);
}

ServerConnection::Sent ServerConnection::send_payload(std::size_t bytes,
                                                      std::atomic<std::uint64_t>& payload_sent) {
    const Request& request = requests_.front().request;
    if (outcome_ == EndStatus::ok) {
        const RegionTable::Serving region(regions_, request.region);
        if (region) {
            const std::uint64_t offset = request.offset + answered_bytes_;
            // Only files that their owner never overwrites are sent without a copy: a socket keeps
            // reading such pages after the region is gone.
            if (region->fd_may_shrink) {
                return send_file(region->fd, region->fd_offset + offset, bytes, payload_sent);
            }
            return send_memory(region->bytes.subspan(static_cast<std::size_t>(offset), bytes),
                               payload_sent);
        }
        outcome_ = EndStatus::access_denied;
    }
    return send_memory(std::span(kZeros).first(std::min(bytes, kZeros.size())), payload_sent);
}

ServerConnection::Sent ServerConnection::send_memory(std::span<const std::byte> payload,
                                                     std::atomic<std::uint64_t>& payload_sent) {
    std::array<::iovec, 2> parts{};
    parts[0] = {&head_[head_first_ < head_last_ ? head_first_ : 0], head_last_ - head_first_};
    parts[1] = {const_cast<std::byte*>(payload.data()), payload.size()};
    ::msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = payload.empty() ? 1 : 2;
    // A frame follows each payload.
    const int more = payload.empty() ? 0 : MSG_MORE;
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL | more);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) return Sent::blocked;
        if (errno == EINTR) return Sent::some;
        return errno == EFAULT && outcome_ == EndStatus::ok ? Sent::fault : Sent::failed;
    }
    consume(static_cast<std::size_t>(sent), payload_sent);
    return Sent::some;
}

ServerConnection::Sent ServerConnection::send_file(int fd, std::uint64_t offset, std::size_t bytes,
                                                   std::atomic<std::uint64_t>& payload_sent) {
    if (head_first_ < head_last_) {
        // The frames before and after the payload would else be packets of their own.
        if (!corked_) cork(true);
        const ssize_t sent = ::send(socket_.get(), &head_[head_first_], head_last_ - head_first_,
                                    MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) return Sent::some;
            return errno == EAGAIN || errno == EWOULDBLOCK ? Sent::blocked : Sent::failed;
        }
        consume(static_cast<std::size_t>(sent), payload_sent);
        if (head_first_ < head_last_) return Sent::some;
    }
    ::off_t position = static_cast<::off_t>(offset);
    const ssize_t sent = ::sendfile(socket_.get(), fd, &position, bytes);
    if (sent == 0) return Sent::fault;
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) return Sent::blocked;
        if (errno == EINTR) return Sent::some;
        const bool broken = errno == EPIPE || errno == ECONNRESET || errno == ETIMEDOUT;
        return broken ? Sent::failed : Sent::fault;
    }
    consume(static_cast<std::size_t>(sent), payload_sent);
    return Sent::some;
}

void ServerConnection::cork(bool on) {
    corked_ = on;
    const int value = on ? 1 : 0;
    static_cast<void>(::setsockopt(socket_.get(), IPPROTO_TCP, TCP_CORK, &value, sizeof value));
}

void ServerConnection::consume(std::size_t bytes, std::atomic<std::uint64_t>& payload_sent) {
    const std::size_t of_head = std::min(bytes, head_last_ - head_first_);
    sent_ = sent_ || bytes > 0;
    head_first_ += of_head;
    const std::size_t of_payload = bytes - of_head;
    slice_bytes_ -= of_payload;
    answered_bytes_ += of_payload;
    payload_sent += of_payload;
}

}  // namespace weightcast::transport::tcp
