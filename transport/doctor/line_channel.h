// Lines of text over a TCP socket. Each is bounded in length and has a deadline.
#pragma once

#include <sys/socket.h>

#include <string>

#include "base/clock.h"
#include "base/socket.h"
#include "base/unique_fd.h"
#include "weightcast/result.h"

namespace weightcast::transport::doctor {

// Waits until `fd` is ready for `events` of poll(2). `stop_fd`, unless -1, ends the wait when it
// becomes readable. Errors: timed_out, cancelled.
Result<void> await_ready(int fd, short events, TimePoint deadline, int stop_fd);

class LineChannel {
  public:
    // Of a connected, non-blocking socket; `stop_fd` is as above.
    LineChannel(UniqueFd socket, int stop_fd) : socket_(std::move(socket)), stop_fd_(stop_fd) {}

    // `host` is a name or a numeric address; so is `from`, ours, unless the system is to choose.
    // Errors: not_found (no such host), invalid_input (`from` is none of ours), unavailable,
    // timed_out.
    static Result<LineChannel> connect(const std::string& host, std::uint16_t port,
                                       const std::string& from, Duration patience);

    // Errors: unavailable (the peer hung up), timed_out, cancelled.
    Result<void> send(std::string line, Duration patience);
    // Without its end. Errors: as send(); invalid_input (the line is too long).
    Result<std::string> receive(Duration patience);
    // The numeric address of our end, without a port.
    Result<std::string> local_host() const;

  private:
    UniqueFd socket_;
    int stop_fd_;
    std::string received_;
};

}  // namespace weightcast::transport::doctor
