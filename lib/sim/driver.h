// What a node does around a pull scheduler, on events: agent/pull_session.h without memory, threads
// and verification. Thread-bound.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "agent/hint_policy.h"
#include "agent/scheduler.h"
#include "base/random.h"
#include "registry/messages.h"
#include "sim/registry_desk.h"

namespace weightcast::sim {

struct DriverOptions {
    agent::SchedulerOptions scheduler;
    std::uint32_t chunks = 1;
    bool can_wait = true;
    std::uint32_t lease_ms = 5000;
    std::uint32_t rate_chunks_min = 0;  // that it must have got to tell the registry its rate
};

class Driver {
  public:
    // Borrows what it is given but the options.
    Driver(Rank rank, const DriverOptions& options, std::uint64_t seed, EventQueue& events,
           Network& network, RegistryDesk& desk);

    void start();
    void ask_plan();
    // Its process is gone.
    void die();
    void on_wake();
    void on_page(LinkId link);
    void on_lost(LinkId link);
    // True: the rank has the chunk now. False: it was there already, or is lost.
    bool on_arrival(const Network::Arrival& arrival);
    // After on_arrival(), when the network knows of the chunk.
    void step();

    bool started() const { return started_; }
    bool finished() const { return finished_; }
    std::int64_t start_ns() const { return start_ns_; }
    std::int64_t planned_ns() const { return planned_ns_; }
    std::int64_t end_ns() const { return end_ns_; }
    std::uint64_t bytes_read() const { return bytes_read_; }
    std::uint64_t twice() const { return twice_; }

  private:
    struct Holder {
        std::uint64_t peer = 0;
        LinkId link = 0;
        bool connected = false;
    };
    struct Penance {
        std::int64_t until_ns = 0;
        std::uint32_t failures = 0;
    };

    void on_plan();
    void begin();
    void finish();
    void arm();
    bool is_linked(std::uint64_t peer) const;
    void add_hint(const registry::HolderHint& hint);
    void apply_plan();
    void lose_holder(agent::HolderIndex index);
    void renew();
    void on_grant();
    TimePoint now() const { return events_.now(); }

    Rank rank_;
    DriverOptions options_;
    EventQueue& events_;
    Network& network_;
    RegistryDesk& desk_;
    Random random_;
    std::optional<agent::PullScheduler> scheduler_;
    std::vector<agent::Action> actions_;
    std::vector<Holder> holders_;               // by HolderIndex
    std::map<std::uint64_t, Penance> penance_;  // by peer
    std::optional<Result<registry::Grant>> answer_;
    registry::Grant grant_;
    std::uint32_t plan_waits_ = 0;
    bool renewing_ = false;
    std::int64_t next_renew_ns_ = 0;
    Duration renew_interval_{};
    agent::RateMeter rate_;
    std::int64_t wake_ns_ = INT64_MAX;  // of the earliest wake event that is to come
    bool started_ = false;
    bool reading_ = false;
    bool finished_ = false;
    bool dead_ = false;
    std::int64_t start_ns_ = 0;
    std::int64_t planned_ns_ = 0;
    std::int64_t end_ns_ = 0;
    std::uint64_t bytes_read_ = 0;
    std::uint64_t twice_ = 0;
};

}  // namespace weightcast::sim
