#include "transport/shm/link.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "transport/shm/address.h"

namespace weightcast::transport::shm {
namespace {

using fabric::ReadStatus;

// Requests in flight, so few that neither side's socket buffer can be full of them.
constexpr std::size_t kAskedMax = 16;

// Uids of the process at the other end that we accept weights from.
bool is_trusted(::uid_t peer) { return peer == ::geteuid() || peer == 0 || ::geteuid() == 0; }

// A page that the holder cannot take away from under us.
Result<Mapping> map_control(const UniqueFd& fd) {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS);
    struct ::stat status {};
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || ::fstat(fd.get(), &status) != 0 ||
        static_cast<std::size_t>(status.st_size) < sizeof(ControlPage)) {
        return Error{Code::io, 0, "the holder sent no sealed control page"};
    }
    return Mapping::map_file(fd.get(), 0, sizeof(ControlPage), false);
}

}  // namespace

Link::Link(const fabric::PeerAddress& peer, const fabric::Incarnation& self, Duration patience)
    : peer_(peer), self_(self), patience_(patience) {}

Result<void> Link::start_socket() {
    socket_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket_) return system_error(errno, "cannot create a socket");
    return success();
}

void Link::connect(TimePoint now, Outcome& outcome) {
    if (deadline_ == TimePoint::max()) deadline_ = now + patience_;
    const auto address = Address::parse(peer_.address);
    if (!address) return fail(ReadStatus::unreachable, "not an address of shm", outcome);
    if (!socket_) {
        if (auto started = start_socket(); !started) {
            return fail(ReadStatus::unreachable, started.error().message, outcome);
        }
    }
    const SocketAddress at = socket_address(address->name);
    if (::connect(socket_.get(), reinterpret_cast<const ::sockaddr*>(&at.address), at.bytes) != 0) {
        if (errno == EAGAIN || errno == EINTR) return;  // its backlog is full: try again later
        return fail(ReadStatus::unreachable,
                    system_error(errno, "nobody answers at " + peer_.address).message, outcome);
    }
    ::ucred holder{};
    ::socklen_t bytes = sizeof holder;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &holder, &bytes) != 0 ||
        !is_trusted(holder.uid)) {
        return fail(ReadStatus::access_denied, "the holder runs as another user", outcome);
    }
    process_id_ = holder.pid;
    if (process_id_ > 0) {
        process_.reset(static_cast<int>(::syscall(SYS_pidfd_open, process_id_, 0)));
    }
    Hello hello;
    hello.reader = self_;
    if (const int code = send_message(socket_.get(), hello); code != 0) {
        return fail(ReadStatus::unreachable, system_error(code, "cannot greet").message, outcome);
    }
    state_ = State::greeting;
}

void Link::progress(TimePoint now, Outcome& outcome) {
    if (state_ == State::connecting) connect(now, outcome);
    while (state_ == State::greeting || state_ == State::up) {
        std::array<std::byte, std::max(sizeof(HelloReply), sizeof(OpenReply))> buffer{};
        UniqueFd fd;
        const auto got = receive_packet(socket_.get(), buffer, fd);
        if (got == -EAGAIN) break;
        if (got == -EINTR) continue;
        if (got == -EMFILE) {
            fail(ReadStatus::unreachable, "out of descriptors: raise RLIMIT_NOFILE", outcome);
        } else if (got <= 0) {
            fail(ReadStatus::unreachable, "the holder has gone", outcome);
        } else {
            handle({buffer.data(), static_cast<std::size_t>(got)}, std::move(fd), now, outcome);
        }
    }
    if (!has_failed() && now >= deadline()) {
        fail(ReadStatus::timed_out,
             fmt::format("the holder did not answer within {} ms",
                         std::chrono::duration_cast<std::chrono::milliseconds>(patience_).count()),
             outcome);
    }
}

void Link::handle(std::span<const std::byte> packet, UniqueFd fd, TimePoint now, Outcome& outcome) {
    Header header;
    if (packet.size() >= sizeof header) std::memcpy(&header, packet.data(), sizeof header);
    const bool known = packet.size() >= sizeof header && header.magic == kMagic;
    if (known && header.type == MessageType::hello_reply && packet.size() == sizeof(HelloReply) &&
        state_ == State::greeting) {
        HelloReply reply;
        std::memcpy(&reply, packet.data(), sizeof reply);
        handle_hello(reply, fd, outcome);
    } else if (known && header.type == MessageType::open_reply &&
               packet.size() == sizeof(OpenReply) && state_ == State::up) {
        OpenReply reply;
        std::memcpy(&reply, packet.data(), sizeof reply);
        handle_region(reply, std::move(fd), outcome);
    } else {
        fail(ReadStatus::unreachable, "the holder sent a malformed packet", outcome);
    }
    ask(now, outcome);
}

void Link::handle_hello(const HelloReply& reply, const UniqueFd& fd, Outcome& outcome) {
    if (reply.holder != peer_.incarnation) {
        return fail(ReadStatus::stale_peer, "another incarnation answers at " + peer_.address,
                    outcome);
    }
    auto control = map_control(fd);
    if (!control) return fail(ReadStatus::unreachable, control.error().message, outcome);
    control_ = std::move(control).value();
    deadline_ = TimePoint::max();
    state_ = State::up;
}

void Link::handle_region(const OpenReply& reply, UniqueFd fd, Outcome& outcome) {
    const auto found = regions_.find(reply.key);
    if (found == regions_.end() || found->second->state != RemoteRegion::State::asked) {
        return fail(ReadStatus::unreachable, "the holder answers what was not asked", outcome);
    }
    const auto region = found->second;
    --asked_;
    region->info = reply;
    region->fd = std::move(fd);
    const bool needs_fd = reply.kind == RegionKind::mappable || reply.kind == RegionKind::file;
    region->state = RemoteRegion::State::refused;
    if (reply.kind == RegionKind::unknown || reply.slot >= kSlots ||
        reply.kind > RegionKind::by_process) {
        region->refusal = ReadStatus::access_denied;
    } else if (needs_fd && !region->fd) {
        region->refusal = ReadStatus::remote_fault;
        error_ = "the holder is out of descriptors: raise its RLIMIT_NOFILE";
    } else if (reply.kind == RegionKind::by_process && (process_id_ <= 0 || !process_)) {
        region->refusal = ReadStatus::remote_fault;
        error_ =
            "the holder's memory is private and its process cannot be seen from here: "
            "share the process namespace, or publish shared memory";
    } else {
        region->state = RemoteRegion::State::open;
    }
    auto waiting = std::exchange(region->waiting, {});
    if (region->state == RemoteRegion::State::open) {
        for (auto& job : waiting) outcome.runnable.emplace_back(region, job);
        return;
    }
    for (const auto& job : waiting) outcome.failed.push_back({job.read.tag, region->refusal});
    regions_.erase(found);
}

void Link::ask(TimePoint now, Outcome& outcome) {
    while (state_ == State::up && asked_ < kAskedMax && !to_ask_.empty()) {
        const auto region = to_ask_.front();
        to_ask_.pop_front();
        Open open;
        open.key = region->key;
        if (const int code = send_message(socket_.get(), open); code != 0) {
            fail(ReadStatus::unreachable, system_error(code, "cannot ask for a region").message,
                 outcome);
            return;
        }
        region->state = RemoteRegion::State::asked;
        region->deadline = now + patience_;
        ++asked_;
    }
}

std::shared_ptr<RemoteRegion> Link::want(const Key& key, TimePoint now, Outcome& outcome) {
    if (const auto found = regions_.find(key); found != regions_.end()) return found->second;
    forget_revoked();
    auto region = std::make_shared<RemoteRegion>();
    region->key = key;
    regions_.emplace(key, region);
    to_ask_.push_back(region);
    ask(now, outcome);
    return region;
}

void Link::add(const Key& key, const Job& job, TimePoint now, Outcome& outcome) {
    std::shared_ptr<RemoteRegion> region;
    if (!has_failed()) region = want(key, now, outcome);
    if (has_failed()) {
        outcome.failed.push_back({job.read.tag, status_});
    } else if (region->state == RemoteRegion::State::open) {
        outcome.runnable.emplace_back(region, job);
    } else {
        region->waiting.push_back(job);
    }
}

void Link::forget_revoked() {
    if (state_ != State::up) return;
    // A revoked region's descriptor would keep the holder's memory from being freed.
    const HolderView view = holder();
    std::erase_if(regions_, [&view](const auto& entry) {
        const RemoteRegion& region = *entry.second;
        return region.state == RemoteRegion::State::open && !region.is_valid(view);
    });
}

void Link::drop_waiting(ReadStatus status, Outcome& outcome) {
    for (auto& [key, region] : regions_) {
        for (const auto& job : region->waiting) outcome.failed.push_back({job.read.tag, status});
        region->waiting.clear();
    }
}

void Link::fail(ReadStatus status, std::string error, Outcome& outcome) {
    if (has_failed()) return;
    state_ = State::failed;
    status_ = status;
    error_ = std::move(error);
    drop_waiting(status, outcome);
    regions_.clear();
    to_ask_.clear();
    socket_.reset();
}

HolderView Link::holder() const {
    return {reinterpret_cast<const ControlPage*>(control_.data()), process_id_, process_.get()};
}

TimePoint Link::deadline() const {
    if (has_failed()) return TimePoint::max();
    TimePoint earliest = deadline_;
    if (asked_ == 0) return earliest;
    for (const auto& [key, region] : regions_) {
        if (region->state == RemoteRegion::State::asked) {
            earliest = std::min(earliest, region->deadline);
        }
    }
    return earliest;
}

}  // namespace weightcast::transport::shm
