#include "transport/shm/wire.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace weightcast::transport::shm {
namespace {

// Room for one descriptor, aligned as CMSG_FIRSTHDR wants it.
struct ControlBuffer {
    alignas(::cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> bytes{};
};

}  // namespace

int send_packet(int socket, std::span<const std::byte> packet, int fd) {
    ::iovec part{const_cast<std::byte*>(packet.data()), packet.size()};
    ControlBuffer control;
    ::msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0) {
        message.msg_control = control.bytes.data();
        message.msg_controllen = control.bytes.size();
        ::cmsghdr* head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof fd);
        std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    const auto sent = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent == static_cast<ssize_t>(packet.size()) ? 0 : errno;
}

std::ptrdiff_t receive_packet(int socket, std::span<std::byte> packet, UniqueFd& fd) {
    ::iovec part{packet.data(), packet.size()};
    ControlBuffer control;
    ::msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    // Not CMSG_SPACE, whose padding would let the kernel install a second descriptor.
    message.msg_controllen = CMSG_LEN(sizeof(int));
    const auto received = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received < 0) return -errno;
    fd.reset();
    for (auto* head = CMSG_FIRSTHDR(&message); head != nullptr;
         head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
        if (head->cmsg_len != CMSG_LEN(sizeof(int))) continue;
        int number = -1;
        std::memcpy(&number, CMSG_DATA(head), sizeof number);
        fd.reset(number);
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0) return -EMFILE;
    if ((message.msg_flags & MSG_TRUNC) != 0) return -EMSGSIZE;
    return received;
}

}  // namespace weightcast::transport::shm
