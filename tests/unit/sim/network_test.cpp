// Goal: transfers take the time that the formula at the top of network.h gives. Method: few ranks,
// chunks of a second or less, arrival times by hand.
#include "sim/network.h"

#include <map>

#include "tests/kit/catch.h"

namespace weightcast::sim {
namespace {

constexpr std::int64_t kSecond = 1000000000;

// Runs to the end; when which chunk came to which rank, and whether it was good.
struct Wire {
    Wire(plan::Topology of, const NetworkOptions& options)
        : topology(std::move(of)), network(topology, options, events) {}

    void run() {
        while (!events.empty()) {
            const Event event = events.take();
            if (event.kind == EventKind::request) network.on_request(event);
            if (event.kind == EventKind::port_free) network.on_port_free(event);
            if (event.kind == EventKind::hop) network.on_hop(event);
            if (event.kind == EventKind::lost) lost_ns = events.now_ns();
            if (event.kind == EventKind::death) network.kill(event.subject);
            if (event.kind != EventKind::arrival) continue;
            const Network::Arrival arrival = network.on_arrival(event);
            if (!arrival.good) continue;
            arrived[{network.reader(arrival.link), arrival.chunk}] = events.now_ns();
            network.add_chunk(network.reader(arrival.link), arrival.chunk);
        }
    }
    double at(Rank rank, std::uint32_t chunk) const {
        const auto found = arrived.find({rank, chunk});
        return found == arrived.end() ? -1 : static_cast<double>(found->second) / kSecond;
    }

    plan::Topology topology;
    EventQueue events;
    Network network;
    std::map<std::pair<Rank, std::uint32_t>, std::int64_t> arrived;
    std::int64_t lost_ns = -1;
};

plan::Topology flat(std::uint32_t receivers) { return plan::make_fleet({receivers, 1, 1, 100}); }

// Chunks of 100 bytes: a second each at 100 bytes/s.
NetworkOptions of_chunks(std::uint32_t chunks) { return {100 * chunks, chunks, {}, {}, {}}; }

TEST_CASE("network: a port sends one chunk at a time and takes turns among its readers") {
    Wire wire(flat(2), of_chunks(4));
    const LinkId a = wire.network.open(1, 0, 0);
    const LinkId b = wire.network.open(2, 0, 0);
    for (const std::uint32_t chunk : {0U, 1U, 2U}) wire.network.request(a, chunk);
    wire.network.request(b, 3);
    wire.run();
    CHECK(wire.at(1, 0) == 1);
    CHECK(wire.at(2, 3) == 2);  // it came while the first was sent
    CHECK(wire.at(1, 1) == 3);
    CHECK(wire.at(1, 2) == 4);
}

TEST_CASE("network: a block costs its time at both ports and its way once") {
    NetworkOptions options = of_chunks(2);
    options.chunk_cost = std::chrono::milliseconds(250);
    options.latency = std::chrono::milliseconds(100);
    Wire wire(flat(1), options);
    const LinkId link = wire.network.open(1, 0, 0);
    wire.network.request(link, 0);
    wire.network.request(link, 1);
    wire.run();
    CHECK(wire.at(1, 0) == Approx(0.1 + 1.25 + 0.1));
    CHECK(wire.at(1, 1) == Approx(0.1 + 2.5 + 0.1));
}

TEST_CASE("network: two senders share the port of their reader") {
    plan::Topology topology = flat(2);
    topology.ranks[1].source = true;
    Wire wire(topology, of_chunks(2));
    wire.network.request(wire.network.open(2, 0, 0), 0);
    wire.network.request(wire.network.open(2, 1, 1), 1);
    wire.run();
    CHECK(wire.at(2, 0) == 1);
    CHECK(wire.at(2, 1) == 2);
}

TEST_CASE("network: a gated read waits for its chunk") {
    Wire wire(flat(2), of_chunks(1));
    wire.network.request(wire.network.open(2, 1, 0), 0);
    wire.network.request(wire.network.open(1, 0, 0), 0);
    wire.run();
    CHECK(wire.at(1, 0) == 1);
    CHECK(wire.at(2, 0) == 2);
}

TEST_CASE("network: readers that wait for a chunk get it in the order of their turns") {
    Wire wire(flat(4), of_chunks(1));
    const LinkId first = wire.network.open(1, 0, 0);
    const auto wait = [&](Rank reader, std::uint32_t turn) {
        const LinkId link = wire.network.open(reader, 1, 0);
        wire.network.set_turn(link, turn);
        wire.network.request(link, 0);
    };
    wait(2, 3);
    wait(3, 1);
    wait(4, 2);
    wire.network.request(first, 0);
    wire.run();
    CHECK(wire.at(1, 0) == 1);
    CHECK(wire.at(3, 0) == 2);
    CHECK(wire.at(4, 0) == 3);
    CHECK(wire.at(2, 0) == 4);
}

TEST_CASE("network: chunks of other racks take turns at the uplink, those of hosts take no port") {
    // Two racks of one host with two ranks each; the uplinks have half of a port's rate.
    Wire wire(plan::make_fleet({3, 2, 2, 100, 50, 1000}), of_chunks(2));
    wire.network.request(wire.network.open(2, 0, 0), 0);
    wire.network.request(wire.network.open(3, 0, 0), 1);
    wire.network.request(wire.network.open(1, 0, 0), 0);
    wire.run();
    CHECK(wire.at(1, 0) == Approx(0.1));
    CHECK(wire.at(2, 0) == 2);
    CHECK(wire.at(3, 1) == 4);
    CHECK(wire.network.traffic().cross_rack_bytes == 200);
    CHECK(wire.network.traffic().local_bytes == 100);
    CHECK(wire.network.traffic().source_bytes == 300);
}

TEST_CASE("network: what a dead holder did not send does not come, and its reader gets to know") {
    NetworkOptions options = of_chunks(3);
    options.detection = std::chrono::seconds(5);
    Wire wire(flat(2), options);
    const LinkId link = wire.network.open(2, 0, 0);
    for (const std::uint32_t chunk : {0U, 1U, 2U}) wire.network.request(link, chunk);
    wire.events.put(kSecond * 3 / 2, EventKind::death, 0);
    wire.run();
    CHECK(wire.at(2, 0) == 1);
    CHECK(wire.at(2, 1) == -1);
    CHECK(wire.at(2, 2) == -1);
    CHECK(wire.lost_ns == kSecond * 13 / 2);
}

}  // namespace
}  // namespace weightcast::sim
