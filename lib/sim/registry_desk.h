// The registry of a simulation, and the way to it: the service that production runs, over a store
// in memory. A peer's requests go one after another, as its membership sends them, and each takes
// the metadata delay: half of it there, half of it back. Thread-bound.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "plan/topology.h"
#include "registry/service.h"
#include "sim/event_queue.h"
#include "sim/network.h"
#include "weightcast/result.h"

namespace weightcast::sim {

inline constexpr const char* kModel = "m";
inline constexpr std::uint64_t kVersion = 1;

class RegistryDesk {
  public:
    using Job = std::function<void(registry::Api&, const registry::PeerRef&)>;
    using Then = std::function<void()>;

    // Registers all ranks, and publishes and holds the version for the sources. Borrows what it is
    // given but the options. `announced`: the port rates that ranks tell.
    static Result<std::unique_ptr<RegistryDesk>> open(const plan::Topology& topology,
                                                      const std::vector<double>& announced,
                                                      const registry::StateOptions& options,
                                                      Duration delay, std::uint64_t seed,
                                                      EventQueue& events, const Network& network);

    // `job` runs at the registry when the request is there, `then` when its answer is back.
    void ask(Rank rank, Job job, Then then);
    // What it still wanted to ask is forgotten.
    void forget(Rank rank) { queues_[rank].clear(); }
    // Its connection to the registry is gone.
    void disconnect(Rank rank) { service_->disconnected(peers_[rank].id); }
    // The rank of a peer.
    Rank rank_of(std::uint64_t peer) const { return ranks_.at(peer); }

    void on_asked(const Event& event);
    void on_answered(const Event& event);

    // Progress and description of what a rank holds.
    registry::HoldingProgress progress(Rank rank) const;
    registry::Holding describe(Rank rank) const;

    std::uint64_t requests() const { return requests_; }
    std::uint64_t requests_per_second_max() const { return busiest_; }

  private:
    struct Request {
        Job job;
        Then then;
    };

    RegistryDesk(Duration delay, EventQueue& events, const Network& network);
    Result<void> publish(Rank source);
    void send(Rank rank);
    void count();

    Duration delay_;
    EventQueue& events_;
    const Network& network_;
    std::unique_ptr<registry::Service> service_;
    std::vector<registry::PeerRef> peers_;  // by rank
    std::unordered_map<std::uint64_t, Rank> ranks_;
    std::vector<std::deque<Request>> queues_;  // by rank; the first is on its way
    std::uint64_t requests_ = 0;
    std::uint64_t second_ = 0;  // that is counted
    std::uint64_t in_second_ = 0;
    std::uint64_t busiest_ = 0;
};

}  // namespace weightcast::sim
