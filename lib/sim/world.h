// Everything of a simulation together, and the loop that runs it. Thread-bound.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/driver.h"
#include "sim/simulation.h"

namespace weightcast::sim {

class World {
  public:
    // `options.topology` is that of the ports as they are, `announced` what their ranks say.
    // Errors: those of the registry's service.
    static Result<std::unique_ptr<World>> create(const SimulationOptions& options,
                                                 const std::vector<double>& announced);

    // When a rank starts to pull, when it dies. Before run().
    void start(Rank rank, std::int64_t at_ns) { events_.put(at_ns, EventKind::start, rank); }
    void kill(Rank rank, std::int64_t at_ns) { events_.put(at_ns, EventKind::death, rank); }

    // Until every receiver that lives is done, or time is over.
    void run(std::int64_t until_ns);

    const Driver& driver(Rank rank) const { return *drivers_[rank]; }
    const Network& network() const { return network_; }
    const RegistryDesk& desk() const { return *desk_; }
    std::int64_t now_ns() const { return events_.now_ns(); }
    std::uint64_t events() const { return events_.taken(); }
    std::vector<Arrival> take_arrivals() { return std::move(arrivals_); }

  private:
    explicit World(const SimulationOptions& options);
    void handle(const Event& event);
    void on_arrival(const Event& event);
    void on_beat(Rank rank);
    void on_death(Rank rank);

    const SimulationOptions& options_;
    EventQueue events_;
    Network network_;
    Random random_;
    std::unique_ptr<RegistryDesk> desk_;
    std::vector<std::unique_ptr<Driver>> drivers_;  // by rank; none for sources
    std::uint32_t unfinished_ = 0;
    std::vector<Arrival> arrivals_;
};

}  // namespace weightcast::sim
