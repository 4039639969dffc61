// A network as flows of chunks through ports. Thread-bound.
//
// A holder sends one chunk at a time through its port, and takes turns among its readers: what a
// fair share of the port comes to when a chunk is the unit, at a constant cost a chunk. Readers
// that wait for the same new chunk get it in the order of their turns in the plan. After the port a
// chunk passes the uplink of its rack, the uplink into the reader's rack, and the reader's port,
// first come first served and cut through: with f_i the time at which resource i is free and s_i =
// bytes / rate_i + cost, it begins at b_i = max(b_{i-1}, f_i), then f_i = b_i + s_i, and it has
// arrived at max f_i + latency. The cost of a block counts at both ports. Ranks of one host pass
// their host's memory instead of all these.
//
// A request takes one latency to its holder, and waits there for the chunk if it is gated.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "plan/topology.h"
#include "sim/availability.h"
#include "sim/event_queue.h"

namespace weightcast::sim {

using LinkId = std::uint32_t;
using Rank = std::uint32_t;

struct NetworkOptions {
    std::uint64_t bytes = 0;
    std::uint32_t chunks = 1;
    Duration chunk_cost{};
    Duration latency{};    // one way
    Duration detection{};  // until a reader knows that its holder is dead
};

struct Traffic {
    std::uint64_t source_bytes = 0;      // sent by those that had everything at the start
    std::uint64_t cross_rack_bytes = 0;  // through uplinks into racks
    std::uint64_t local_bytes = 0;       // within hosts
    std::uint64_t transfers = 0;
};

class Network {
  public:
    // Borrows all but the options.
    Network(const plan::Topology& topology, const NetworkOptions& options, EventQueue& events);

    // A way for `reader` to read from `holder`. `index` is the reader's own name for it.
    LinkId open(Rank reader, Rank holder, std::uint32_t index);
    // Of its readers that wait for a chunk, the holder sends to those with the least turn first.
    void set_turn(LinkId link, std::uint32_t turn);
    // What is asked for and not sent yet will not be sent; what is on its way is dropped.
    void close(LinkId link);
    void request(LinkId link, std::uint32_t chunk);
    void request_page(LinkId link);
    // The rank has a chunk from now on, and others may read it.
    void add_chunk(Rank rank, std::uint32_t chunk);
    // It sends and reads nothing any more. Readers of it get to know after the detection's time.
    void kill(Rank rank);

    const Availability& availability(Rank rank) const { return ranks_[rank].has; }
    bool alive(Rank rank) const { return ranks_[rank].died_ns < 0; }
    Rank reader(LinkId link) const { return links_[link].reader; }
    Rank holder(LinkId link) const { return links_[link].holder; }
    std::uint32_t index(LinkId link) const { return links_[link].index; }
    bool is_open(LinkId link) const { return links_[link].open; }
    std::uint64_t chunk_bytes() const { return chunk_bytes_; }
    const NetworkOptions& options() const { return options_; }
    std::uint64_t bytes_of(std::uint32_t chunk) const;
    std::uint64_t bytes_held(Rank rank) const;
    const Traffic& traffic() const { return traffic_; }

    // What became of an arrival: `link` is closed, or its holder died while it sent, if not `good`.
    struct Arrival {
        LinkId link;
        std::uint32_t chunk;
        bool good;
    };
    // Events of the network. REQUIRES: the event's kind is that of the function's name
    void on_request(const Event& event);
    void on_port_free(const Event& event);
    void on_hop(const Event& event) { advance(event.subject); }
    Arrival on_arrival(const Event& event);

  private:
    // Seconds come as nanoseconds a byte; 0: no time.
    struct Resource {
        double ns_per_byte = 0;
        std::int64_t cost_ns = 0;
        std::int64_t free_ns = 0;
    };
    // Where a rank's or a host's chunks queue to be sent.
    struct Port {
        Resource resource;
        bool busy = false;
        LinkId last = 0;           // that it sends to, or sent to
        std::deque<LinkId> turns;  // links that have chunks to send
    };
    struct Link {
        Rank reader = 0;
        Rank holder = 0;
        std::uint32_t index = 0;
        std::uint32_t turn = 0;
        std::uint32_t port = 0;
        std::array<std::uint32_t, 3> path{};  // resources after the port
        std::uint8_t hops = 0;                // of the path
        bool open = true;
        bool queued = false;  // among the port's turns
        bool local = false;
        bool crosses = false;                // racks
        std::vector<std::uint32_t> waiting;  // chunks that the holder does not have yet
        std::vector<std::uint32_t> ready;    // to be sent
    };
    struct Transfer {
        LinkId link = 0;
        std::uint32_t chunk = 0;
        std::int64_t sent_ns = 0;
        std::int64_t end_ns = 0;
        std::uint8_t hop = 0;
    };
    struct RankState {
        Availability has;
        std::int64_t died_ns = -1;
        std::vector<LinkId> sends;  // open links to its readers, by turn
        std::vector<LinkId> reads;  // open links to its holders
    };

    std::int64_t service_ns(const Resource& resource, std::uint32_t chunk) const;
    void enqueue(LinkId link, std::uint32_t chunk);
    void send_next(std::uint32_t port);
    void advance(std::uint32_t transfer);

    const plan::Topology& topology_;
    NetworkOptions options_;
    EventQueue& events_;
    std::uint64_t chunk_bytes_;
    std::vector<Port> ports_;          // of ranks, then of hosts
    std::vector<Resource> resources_;  // down ports of ranks, then up and down of each rack
    std::vector<RankState> ranks_;
    std::vector<Link> links_;
    std::vector<Transfer> transfers_;
    std::vector<std::uint32_t> free_transfers_;
    Traffic traffic_;
};

}  // namespace weightcast::sim
