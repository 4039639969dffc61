// The holder's side: lets readers connect, and from then on does nothing. Its thread sleeps until a
// connection comes or goes, a port changes, or it is time to see whether readers are still there;
// reads are answered by the device.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/verbs/queue_pair.h"
#include "transport/verbs/registration.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {

class Acceptor {
  public:
    // Listens on every rail that has an IP address, and on `options.listen` for the out-of-band
    // exchange. `port_changed` is an eventfd that is told when a rail goes up or down.
    // Errors: unavailable, io, naming the call.
    static Result<std::unique_ptr<Acceptor>> start(const fabric::FabricOptions& options,
                                                   std::shared_ptr<const Rails> rails,
                                                   int port_changed);
    // Ends all connections.
    ~Acceptor();
    Acceptor(const Acceptor&) = delete;
    Acceptor& operator=(const Acceptor&) = delete;

    const HolderAddress& address() const { return address_; }
    // Of readers. Thread-safe.
    std::size_t connections() const { return count_.load(std::memory_order_relaxed); }

  private:
    static constexpr std::size_t kRequestBytes = kHelloBytes + kPairAddressBytes;
    using ConnectionId = std::uint64_t;
    // Listeners' names in librdmacm, by rail; no connection has such a one.
    static constexpr ConnectionId kListeners = std::uint64_t{1} << 62U;
    // A reader's lane: the same reader's newer connection of the same lane replaces it.
    using LaneId = std::pair<fabric::Incarnation, std::uint32_t>;

    struct Connection {
        CmHandle id;      // by librdmacm,
        UniqueFd socket;  // or out of band
        QueuePair pair;   // none until the request is accepted
        std::optional<LaneId> lane;
        std::uint32_t probe_key = 0;
        // Out of band: the request so far, and when it must be whole.
        std::array<std::byte, kRequestBytes> request{};
        std::size_t received = 0;
        TimePoint deadline{};
        bool probed = false;  // a probe is outstanding
    };
    struct Request {
        std::size_t rail = 0;
        Hello hello;
        std::uint8_t read_depth = 1;  // of the reader
    };

    Acceptor(const fabric::FabricOptions& options, std::shared_ptr<const Rails> rails,
             int port_changed);
    Result<void> open();
    Result<void> listen_by_cm(std::size_t rail);
    Result<void> make_queue(std::size_t rail);
    void run();
    int wait_ms(TimePoint now);
    void on_descriptor(std::uint64_t name);

    // Both ways (acceptor.cpp)
    Verdict judge(const Hello& hello, std::size_t rail) const;
    Welcome welcome(Verdict verdict, const Request& request) const;
    // `path` has the way to the reader, who can READ as soon as this returns.
    Result<QueuePair> make_pair(const Request& request, PairPath& path) const;
    void keep(ConnectionId name, Connection& connection, const Hello& hello);
    void drop(ConnectionId name);

    // Through librdmacm (acceptor_cm.cpp)
    void on_cm_events();
    void on_connect_request(CmHandle id, std::size_t rail, std::optional<Hello> hello,
                            std::uint8_t read_depth);

    // Out of band (acceptor_control.cpp)
    void accept_all();
    void on_control(ConnectionId name);
    void on_control_request(ConnectionId name, Connection& connection);
    TimePoint close_late(TimePoint now);

    // Readers whose host is gone without a word (acceptor_probe.cpp)
    void probe_all();
    void on_probes(std::size_t rail);

    // Ports (acceptor.cpp)
    void on_device_event(std::size_t rail);

    const fabric::FabricOptions options_;
    const std::shared_ptr<const Rails> rails_;  // shared with the fabric's regions
    const int port_changed_;
    HolderAddress address_;
    UniqueFd epoll_;
    UniqueFd wake_;
    Listener control_;
    EventChannelHandle channel_;
    std::vector<CmHandle> listeners_;      // by rail; null where it has no IP address
    std::vector<ChannelHandle> channels_;  // by rail, for the completions of probes
    std::vector<QueueHandle> queues_;      // by rail
    std::map<ConnectionId, Connection> connections_;
    std::map<LaneId, ConnectionId> lanes_;
    ConnectionId next_name_ = 1;
    TimePoint next_probe_{};
    std::size_t unfinished_ = 0;  // out-of-band requests that are not whole
    std::atomic<std::size_t> count_{0};
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace weightcast::transport::verbs
