#include "tests/kit/child.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <utility>

#include "base/assert.h"

namespace weightcast::kit {

bool Channel::transfer(void* data, std::size_t bytes, bool sending) {
    auto* at = static_cast<char*>(data);
    while (bytes > 0) {
        const ssize_t done = sending ? ::send(socket_.get(), at, bytes, MSG_NOSIGNAL)
                                     : ::recv(socket_.get(), at, bytes, 0);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        bytes -= static_cast<std::size_t>(done);
    }
    return true;
}

bool Channel::send(const std::string& message) {
    auto size = static_cast<std::uint32_t>(message.size());
    std::string copy = message;
    return transfer(&size, sizeof size, true) && transfer(copy.data(), copy.size(), true);
}

std::optional<std::string> Channel::receive() {
    std::uint32_t size = 0;
    if (!transfer(&size, sizeof size, false)) return std::nullopt;
    std::string message(size, '\0');
    if (!transfer(message.data(), message.size(), false)) return std::nullopt;
    return message;
}

Child::Child(const std::function<int(Channel&)>& body) {
    std::array<int, 2> ends{};
    WEIGHTCAST_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    UniqueFd ours(ends[0]);
    UniqueFd theirs(ends[1]);
    const ::pid_t parent = ::getpid();
    pid_ = ::fork();
    WEIGHTCAST_ASSERT(pid_ >= 0);
    if (pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        ours.reset();
        Channel channel(std::move(theirs));
        ::_exit(body(channel));
    }
    channel_ = Channel(std::move(ours));
}

Child::~Child() { kill(); }

void Child::kill() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
}

void Child::stop() {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
}

void Child::resume() { ::kill(pid_, SIGCONT); }

int Child::wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace weightcast::kit
