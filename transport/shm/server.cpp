#include "transport/shm/server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/log.h"
#include "transport/shm/address.h"
#include "transport/shm/wire.h"

namespace weightcast::transport::shm {
namespace {

constexpr std::size_t kConnectionsMax = 1024;
constexpr int kBacklog = 1024;

Result<void> watch(int epoll, int fd) {
    ::epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        return system_error(errno, "cannot watch a socket");
    }
    return success();
}

UniqueFd open_spare() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

bool is_allowed(int connection) {
    ::ucred peer{};
    ::socklen_t bytes = sizeof peer;
    if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return false;
    return peer.uid == ::geteuid() || peer.uid == 0;
}

template <typename Message>
bool is_message(std::span<const std::byte> packet, MessageType type, Message& message) {
    if (packet.size() != sizeof message) return false;
    std::memcpy(&message, packet.data(), sizeof message);
    return message.header.magic == kMagic && message.header.type == type;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(const std::string& name,
                                              const fabric::Incarnation& incarnation,
                                              std::shared_ptr<const RegionTable> regions) {
    std::unique_ptr<Server> server(new Server(incarnation, std::move(regions)));
    WEIGHTCAST_CHECK(server->listen(name));
    server->thread_ = std::thread([self = server.get()] { self->run(); });
    return server;
}

Server::~Server() {
    if (!thread_.joinable()) return;
    ::eventfd_write(stop_.get(), 1);
    thread_.join();
}

Result<void> Server::listen(const std::string& name) {
    listener_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    stop_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    spare_ = open_spare();
    if (!listener_ || !epoll_ || !stop_ || !spare_) {
        return system_error(errno, "cannot create the sockets of shm");
    }
    const SocketAddress at = socket_address(name);
    if (::bind(listener_.get(), reinterpret_cast<const ::sockaddr*>(&at.address), at.bytes) != 0) {
        return system_error(errno, "cannot bind the socket of shm");
    }
    if (::listen(listener_.get(), kBacklog) != 0) return system_error(errno, "cannot listen");
    WEIGHTCAST_CHECK(watch(epoll_.get(), listener_.get()));
    return watch(epoll_.get(), stop_.get());
}

void Server::run() {
    std::array<::epoll_event, 32> events{};
    for (;;) {
        const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
        for (int i = 0; i < count; ++i) {
            const int fd = events[static_cast<std::size_t>(i)].data.fd;
            if (fd == stop_.get()) return;
            if (fd == listener_.get()) {
                accept_one();
            } else if (!serve_one(fd)) {
                connections_.erase(fd);
            }
        }
    }
}

void Server::accept_one() {
    UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) {
        if (errno != EMFILE && errno != ENFILE) return;
        log(LogLevel::warning, "shm turns a peer away: out of descriptors (raise RLIMIT_NOFILE)");
        spare_.reset();
        connection.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        connection.reset();
        spare_ = open_spare();
        return;
    }
    if (!is_allowed(connection.get())) {
        log(LogLevel::warning, "shm turns a peer of another user away");
        return;
    }
    if (connections_.size() >= kConnectionsMax) {
        log(LogLevel::warning, "shm turns a peer away: {} connections at most", kConnectionsMax);
        return;
    }
    if (!watch(epoll_.get(), connection.get())) return;
    const int number = connection.get();
    connections_.emplace(number, std::move(connection));
}

bool Server::serve_one(int connection) {
    std::array<std::byte, std::max(sizeof(Hello), sizeof(Open))> buffer{};
    UniqueFd ignored;
    const auto got = receive_packet(connection, buffer, ignored);
    if (got == -EAGAIN || got == -EINTR) return true;
    if (got <= 0) return false;
    const std::span<const std::byte> packet(buffer.data(), static_cast<std::size_t>(got));
    if (Hello hello; is_message(packet, MessageType::hello, hello)) {
        HelloReply reply;
        reply.holder = incarnation_;
        return send_message(connection, reply, regions_->control_fd()) == 0;
    }
    if (Open open; is_message(packet, MessageType::open, open)) {
        UniqueFd fd;
        const OpenReply reply = regions_->find(open.key, fd);
        // A reader keeps few requests in flight, so that a full socket means that it is broken.
        return send_message(connection, reply, fd.get()) == 0;
    }
    return false;
}

}  // namespace weightcast::transport::shm
