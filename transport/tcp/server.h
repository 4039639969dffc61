// Serves the regions of a table to the readers that connect, on a thread of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/socket.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/tcp/region_table.h"
#include "transport/tcp/server_connection.h"
#include "transport/tcp/token_bucket.h"

namespace weightcast::transport::tcp {

class Server {
  public:
    // Connections at once; further ones are closed at once.
    static constexpr std::size_t kConnectionsMax = 8192;
    // Payload bytes that one connection sends before it is another one's turn.
    static constexpr std::uint64_t kTurnBytes = 1U << 20U;

    // Listens, and starts the thread. Errors: invalid_input, io.
    static Result<std::unique_ptr<Server>> start(const fabric::FabricOptions& options,
                                                 std::shared_ptr<RegionTable> regions);
    // Closes every connection.
    ~Server();

    const SocketAddress& address() const { return listener_.address; }
    // Bits that requests may wait for were set: answers these, unless the thread is at work.
    // Thread-safe.
    void gates_opened();
    std::uint64_t bytes_served() const { return bytes_served_.load(std::memory_order_relaxed); }

  private:
    Server(const fabric::FabricOptions& options, std::shared_ptr<RegionTable> regions,
           Listener listener, UniqueFd epoll, UniqueFd wake);

    void run();
    // Of the next wait; negative: none.
    int timeout_ms(bool throttled) const;
    void accept_all();
    void add_connection(UniqueFd socket);
    void on_event(std::uint64_t id, std::uint32_t events);
    // Receives, and queues the connection for its turn or closes it.
    void advance(ServerConnection& connection);
    void queue_turn(ServerConnection& connection);
    // Looks at the gates of the requests that were just parked.
    void watch_gates(ServerConnection& connection);
    void look_at_gates();
    // Looks at all gates, and tells the readers that wait that this server is there.
    void keep_alive();
    void close(std::uint64_t id);
    // Gives each queued connection one turn. False if the rate cap stopped it.
    bool serve_round();
    void close_silent();

    const fabric::FabricOptions options_;
    // Shared with the regions, which may outlive this server.
    const std::shared_ptr<RegionTable> regions_;
    Listener listener_;
    UniqueFd epoll_;
    UniqueFd wake_;
    std::atomic<bool> stopping_ = false;
    std::mutex mutex_;  // of all below, but what is atomic
    UniqueFd spare_;    // given up to accept and close when descriptors run out
    std::unordered_map<std::uint64_t, std::unique_ptr<ServerConnection>> connections_;
    std::uint64_t next_connection_ = 2;  // after the ids of the listener and the wake-up
    std::deque<std::uint64_t> turns_;
    std::size_t silent_ = 0;                  // connections that have not said hello
    std::vector<ServerConnection*> waiting_;  // with parked requests
    TimePoint next_keep_alive_;               // unless none is waiting
    // Counted before their gates are looked at: who sets a bit afterwards sees the count and wakes
    // the thread, and a bit that was set before is seen.
    std::atomic<std::uint64_t> parked_ = 0;
    std::atomic<bool> opened_ = false;  // gates_opened() has woken the thread
    TokenBucket bucket_;
    TimePoint now_;
    std::atomic<std::uint64_t> bytes_served_ = 0;
    std::thread thread_;
};

}  // namespace weightcast::transport::tcp
