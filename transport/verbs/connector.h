// Connects a reader's queue pair to a holder's: through librdmacm, or by exchanging their addresses
// over a TCP connection, for fabrics without IP. Thread-bound, never blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "fabric/fabric.h"
#include "transport/verbs/queue_pair.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {

class Connector {
  public:
    enum class State : std::uint8_t {
        connecting,
        connected,  // the pair is ready to send
        failed,     // it never was: status() and error() say why
        lost,       // the peer ended the connection
    };
    virtual ~Connector() = default;
    // To wait on, for POLLOUT if wants_write(), for POLLIN else.
    virtual int fd() const = 0;
    virtual bool wants_write() const { return false; }
    // Does what can be done without waiting.
    virtual void advance() = 0;

    State state() const { return state_; }
    fabric::ReadStatus status() const { return status_; }
    const std::string& error() const { return error_; }
    // Once connected: READs that the pair may have outstanding at the devices.
    std::uint8_t read_depth() const { return path_.read_depth; }

  protected:
    // Borrows the pair, which is in RESET.
    Connector(QueuePair& pair, const Hello& hello) : pair_(pair), hello_(hello) {}
    void fail(fabric::ReadStatus status, std::string error);
    // Looks at the holder's answer. False: the connection has failed.
    bool accept(const Welcome& welcome);

    QueuePair& pair_;
    const Hello hello_;
    PairPath path_;
    State state_ = State::connecting;

  private:
    fabric::ReadStatus status_ = fabric::ReadStatus::unreachable;
    std::string error_;
};

struct ConnectorOptions {
    std::uint8_t traffic_class = 0;
    int resolve_ms_max = 2000;
};

// From the pair's rail, which has an IP address, to the holder's.
std::unique_ptr<Connector> connect_by_cm(QueuePair& pair, const Hello& hello,
                                         const SocketAddress& holder,
                                         const ConnectorOptions& options);
std::unique_ptr<Connector> connect_out_of_band(QueuePair& pair, const Hello& hello,
                                               const SocketAddress& control,
                                               const ConnectorOptions& options);

}  // namespace weightcast::transport::verbs
