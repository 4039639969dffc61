// A child process with a message channel, for tests that kill, stop and continue a peer.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "base/unique_fd.h"

namespace weightcast::kit {

// One end of a stream of messages, each a short string. Blocking.
class Channel {
  public:
    explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}
    // False if the other end is gone.
    bool send(const std::string& message);
    // Nothing if the other end is gone.
    std::optional<std::string> receive();

  private:
    bool transfer(void* data, std::size_t bytes, bool sending);
    UniqueFd socket_;
};

// A forked copy of this process. Killed, if it still runs, and reaped by the destructor; it also
// dies with this process. Fork before this process starts threads.
class Child {
  public:
    // The child runs `body` and exits with what it returns.
    explicit Child(const std::function<int(Channel&)>& body);
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    Channel& channel() { return channel_; }
    ::pid_t pid() const { return pid_; }
    void kill();    // and waits until it is gone
    void stop();    // SIGSTOP, and waits until it has stopped
    void resume();  // SIGCONT
    // Waits for its end; its exit status, or -1 if a signal ended it.
    int wait();

  private:
    ::pid_t pid_ = -1;
    Channel channel_{UniqueFd()};
};

}  // namespace weightcast::kit
