#include "sim/world.h"

#include <utility>

namespace weightcast::sim {

World::World(const SimulationOptions& options)
    : options_(options),
      network_(
          options.topology,
          {options.bytes, options.chunks, options.chunk_cost, options.latency, options.detection},
          events_),
      random_(options.seed) {}

Result<std::unique_ptr<World>> World::create(const SimulationOptions& options,
                                             const std::vector<double>& announced) {
    std::unique_ptr<World> world(new World(options));
    WEIGHTCAST_TRY(world->desk_, RegistryDesk::open(options.topology, announced, options.registry,
                                                    options.metadata_delay, world->random_.next(),
                                                    world->events_, world->network_));
    const DriverOptions driver{options.scheduler, options.chunks, options.can_wait,
                               options.registry.lease_ms, options.rate_chunks_min};
    for (Rank rank = 0; rank < options.topology.ranks.size(); ++rank) {
        auto& added = world->drivers_.emplace_back();
        world->events_.put(0, EventKind::beat, rank);
        if (options.topology.ranks[rank].source) continue;
        added = std::make_unique<Driver>(rank, driver, world->random_.next(), world->events_,
                                         world->network_, *world->desk_);
        ++world->unfinished_;
    }
    return world;
}

void World::run(std::int64_t until_ns) {
    while (unfinished_ > 0 && !events_.empty() && events_.next_ns() <= until_ns) {
        handle(events_.take());
    }
}

void World::handle(const Event& event) {
    switch (event.kind) {
        case EventKind::request:
            return network_.on_request(event);
        case EventKind::port_free:
            return network_.on_port_free(event);
        case EventKind::hop:
            return network_.on_hop(event);
        case EventKind::arrival:
            return on_arrival(event);
        case EventKind::page:
            return drivers_[network_.reader(event.subject)]->on_page(event.subject);
        case EventKind::lost:
            return drivers_[network_.reader(event.subject)]->on_lost(event.subject);
        case EventKind::asked:
            return desk_->on_asked(event);
        case EventKind::answered:
            return desk_->on_answered(event);
        case EventKind::beat:
            return on_beat(event.subject);
        case EventKind::start:
            return drivers_[event.subject]->start();
        case EventKind::death:
            return on_death(event.subject);
        case EventKind::gone:
            return desk_->disconnect(event.subject);
        case EventKind::wake:
            return drivers_[event.subject]->on_wake();
        case EventKind::ask_plan:
            return drivers_[event.subject]->ask_plan();
    }
}

void World::on_arrival(const Event& event) {
    const Network::Arrival arrival = network_.on_arrival(event);
    const Rank rank = network_.reader(arrival.link);
    Driver& driver = *drivers_[rank];
    if (driver.on_arrival(arrival)) {
        network_.add_chunk(rank, arrival.chunk);
        if (options_.keep_arrivals) {
            const Rank from = network_.holder(arrival.link);
            arrivals_.push_back(
                {rank, from, arrival.chunk, seconds(events_.now().time_since_epoch())});
        }
    }
    if (driver.finished()) return;
    driver.step();
    if (driver.finished()) --unfinished_;
}

void World::on_beat(Rank rank) {
    if (!network_.alive(rank)) return;
    // A third of the lease, jittered, as agent/membership.cpp has it.
    const double part = 0.25 + 0.15 * random_.unit();
    const double ms = part * options_.registry.lease_ms;
    const bool first = events_.now_ns() == 0;
    events_.put(events_.now_ns() + static_cast<std::int64_t>(ms * 1e6), EventKind::beat, rank);
    if (first) return;
    const bool holds = drivers_[rank] == nullptr || drivers_[rank]->started();
    desk_->ask(rank,
               [this, rank, holds](registry::Api& api, const registry::PeerRef& peer) {
                   registry::Heartbeat beat{peer, {}};
                   if (holds) beat.progress.push_back(desk_->progress(rank));
                   static_cast<void>(api.heartbeat(beat));
               },
               {});
}

void World::on_death(Rank rank) {
    Driver& driver = *drivers_[rank];
    if (!driver.finished()) --unfinished_;
    network_.kill(rank);
    driver.die();
    // Known to the registry by the same means as to a reader.
    events_.put(events_.now_ns() + options_.detection.count(), EventKind::gone, rank);
}

}  // namespace weightcast::sim
