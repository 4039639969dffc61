// A pull by a whole fleet on a made-up clock: the registry's service and every receiver's pull
// scheduler as production has them, over a network of flows (sim/network.h). The same options and
// seed give the same outcome. Single-threaded; simulations in several threads are independent.
//
// What is left out: verification, the manifest, files, connecting (a link is there at once).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/scheduler.h"
#include "base/clock.h"
#include "plan/topology.h"
#include "registry/state.h"
#include "weightcast/result.h"

namespace weightcast::sim {

struct SimulationOptions {
    plan::Topology topology;
    std::uint64_t bytes = 0;
    std::uint32_t chunks = 1;         // of equal size
    Duration chunk_cost{};            // that a chunk takes of a port besides its bytes
    Duration latency{};               // one way
    Duration metadata_delay{};        // of a request to the registry, there and back
    registry::StateOptions registry;  // with the number of stripes
    agent::SchedulerOptions scheduler;
    bool can_wait = true;  // the transport's holders wait for chunks that are asked for
    // Fractions of the receivers, chosen by the seed.
    double deaths = 0;
    double death_at = 0.5;                                // of the fleet's bound
    Duration detection = std::chrono::milliseconds(500);  // of a dead holder by its reader
    double joiners = 0;  // start when a quarter to three quarters of the bound are over
    double stragglers = 0;
    double straggler_rate = 0.25;  // of their ports to the topology's; they do not tell
    double time_max = 0;           // seconds; 0: a minute and fifty times the bound
    std::uint64_t seed = 1;
    std::uint32_t rate_chunks_min = 0;  // that a receiver must get to tell the registry its rate
    bool keep_arrivals = false;
};

struct Receiver {
    enum class Kind : std::uint8_t { plain, joiner, straggler, dead };
    std::uint32_t rank = 0;
    Kind kind = Kind::plain;
    double start = 0;         // seconds since the world's begin, as are the following
    double planned = 0;       // it had its plan and began to read
    double end = 0;           // it had everything; 0: never
    std::uint64_t bytes = 0;  // read, those that came twice included
};

struct Arrival {
    std::uint32_t rank = 0;
    std::uint32_t from = 0;  // rank
    std::uint32_t chunk = 0;
    double at = 0;
};

struct Distribution {
    std::uint32_t count = 0;
    double min = 0, median = 0, p90 = 0, p99 = 0, max = 0;
};
// REQUIRES nothing; of no values all is 0.
Distribution distribution_of(std::vector<double> values);

struct Outcome {
    std::vector<Receiver> receivers;  // by rank
    std::vector<Arrival> arrivals;    // in order; empty unless they were to be kept
    double bound = 0;                 // seconds that the fleet needs at least from a start
    std::string limited_by;
    double seconds = 0;            // until the last receiver was done
    std::uint32_t unfinished = 0;  // receivers that live and did not get everything
    std::uint64_t source_bytes = 0;
    std::uint64_t cross_rack_bytes = 0;
    std::uint64_t local_bytes = 0;
    std::uint64_t registry_requests = 0;
    std::uint64_t registry_requests_per_second_max = 0;
    std::uint64_t twice = 0;  // chunks that came again
    std::uint64_t events = 0;

    // Seconds from their start (or from their plan) to their end of all that ended.
    Distribution times() const;
    Distribution times(Receiver::Kind kind) const;
    Distribution times_from_plan(Receiver::Kind kind) const;
};

// Errors: invalid_input (naming what is out of its range).
Result<void> check(const SimulationOptions& options);
// Errors: those of check().
Result<Outcome> simulate(const SimulationOptions& options);

}  // namespace weightcast::sim
