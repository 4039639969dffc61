#include "sim/network.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace weightcast::sim {
namespace {

double ns_per_byte(double rate) { return rate > 0 ? 1e9 / rate : 0; }

}  // namespace

Network::Network(const plan::Topology& topology, const NetworkOptions& options, EventQueue& events)
    : topology_(topology),
      options_(options),
      events_(events),
      chunk_bytes_((options.bytes + options.chunks - 1) / options.chunks) {
    const std::int64_t cost = options.chunk_cost.count();
    for (const plan::RankSpec& rank : topology.ranks) {
        Port port;
        port.resource = {ns_per_byte(rank.up), cost, 0};
        ports_.push_back(std::move(port));
        resources_.push_back({ns_per_byte(rank.down), cost, 0});
        ranks_.push_back({Availability(options.chunks, rank.source), -1, {}, {}});
    }
    for (const plan::HostSpec& host : topology.hosts) {
        Port port;
        port.resource = {ns_per_byte(host.local), cost, 0};
        ports_.push_back(std::move(port));
    }
    for (const plan::RackSpec& rack : topology.racks) {
        resources_.push_back({ns_per_byte(rack.up), 0, 0});
        resources_.push_back({ns_per_byte(rack.down), 0, 0});
    }
}

std::uint64_t Network::bytes_of(std::uint32_t chunk) const {
    const std::uint64_t begin = std::min(options_.bytes, chunk * chunk_bytes_);
    return std::min(chunk_bytes_, options_.bytes - begin);
}

std::uint64_t Network::bytes_held(Rank rank) const {
    return std::min(options_.bytes, ranks_[rank].has.held() * chunk_bytes_);
}

std::int64_t Network::service_ns(const Resource& resource, std::uint32_t chunk) const {
    const double bytes = static_cast<double>(bytes_of(chunk));
    return resource.cost_ns + static_cast<std::int64_t>(bytes * resource.ns_per_byte);
}

LinkId Network::open(Rank reader, Rank holder, std::uint32_t index) {
    const auto id = static_cast<LinkId>(links_.size());
    Link& link = links_.emplace_back();
    link.reader = reader;
    link.holder = holder;
    link.index = index;
    const std::uint32_t from = topology_.ranks[holder].host;
    const std::uint32_t to = topology_.ranks[reader].host;
    const auto ranks = static_cast<std::uint32_t>(ranks_.size());
    link.local = from == to;
    link.port = link.local ? ranks + from : holder;
    const std::uint32_t rack_from = topology_.hosts[from].rack;
    const std::uint32_t rack_to = topology_.hosts[to].rack;
    link.crosses = rack_from != rack_to;
    if (link.crosses) {
        link.path[link.hops++] = ranks + 2 * rack_from;
        link.path[link.hops++] = ranks + 2 * rack_to + 1;
    }
    if (!link.local) link.path[link.hops++] = reader;
    auto& sends = ranks_[holder].sends;
    sends.insert(std::ranges::upper_bound(sends, link.turn, {},
                                          [&](LinkId other) { return links_[other].turn; }),
                 id);
    ranks_[reader].reads.push_back(id);
    if (!alive(holder)) {
        events_.put(events_.now_ns() + options_.detection.count(), EventKind::lost, id);
    }
    return id;
}

void Network::set_turn(LinkId id, std::uint32_t turn) {
    if (std::exchange(links_[id].turn, turn) == turn) return;
    std::ranges::stable_sort(ranks_[links_[id].holder].sends, {},
                             [&](LinkId link) { return links_[link].turn; });
}

void Network::close(LinkId id) {
    Link& link = links_[id];
    if (!link.open) return;
    link.open = false;
    link.waiting = {};
    link.ready = {};
    std::erase(ranks_[link.holder].sends, id);
    std::erase(ranks_[link.reader].reads, id);
}

void Network::request(LinkId link, std::uint32_t chunk) {
    events_.put(events_.now_ns() + options_.latency.count(), EventKind::request, link, chunk);
}

void Network::request_page(LinkId link) {
    events_.put(events_.now_ns() + 2 * options_.latency.count(), EventKind::page, link);
}

void Network::on_request(const Event& event) {
    Link& link = links_[event.subject];
    if (!link.open || !alive(link.holder)) return;
    if (ranks_[link.holder].has.has(event.detail)) {
        enqueue(event.subject, event.detail);
    } else {
        link.waiting.push_back(event.detail);
    }
}

void Network::enqueue(LinkId id, std::uint32_t chunk) {
    Link& link = links_[id];
    Port& port = ports_[link.port];
    link.ready.push_back(chunk);
    // Whom it sends to comes behind those who come meanwhile.
    if (!link.queued && !(port.busy && port.last == id)) {
        port.turns.push_back(id);
        link.queued = true;
    }
    if (!port.busy) send_next(link.port);
}

void Network::on_port_free(const Event& event) {
    Port& port = ports_[event.subject];
    port.busy = false;
    Link& last = links_[port.last];
    last.queued = !last.ready.empty();
    if (last.queued) port.turns.push_back(port.last);
    send_next(event.subject);
}

void Network::send_next(std::uint32_t number) {
    Port& port = ports_[number];
    while (!port.turns.empty()) {
        const LinkId id = port.turns.front();
        port.turns.pop_front();
        Link& link = links_[id];
        link.queued = false;
        if (!link.open || !alive(link.holder)) continue;
        const std::uint32_t chunk = link.ready.front();
        link.ready.erase(link.ready.begin());
        if (free_transfers_.empty()) {
            free_transfers_.push_back(static_cast<std::uint32_t>(transfers_.size()));
            transfers_.emplace_back();
        }
        const std::uint32_t transfer = free_transfers_.back();
        free_transfers_.pop_back();
        const std::int64_t sent = events_.now_ns() + service_ns(port.resource, chunk);
        transfers_[transfer] = {id, chunk, sent, sent, 0};
        const std::uint64_t bytes = bytes_of(chunk);
        ++traffic_.transfers;
        if (topology_.ranks[link.holder].source) traffic_.source_bytes += bytes;
        if (link.crosses) traffic_.cross_rack_bytes += bytes;
        if (link.local) traffic_.local_bytes += bytes;
        port.busy = true;
        port.last = id;
        events_.put(sent, EventKind::port_free, number);
        advance(transfer);
        return;
    }
}

void Network::advance(std::uint32_t number) {
    Transfer& transfer = transfers_[number];
    const Link& link = links_[transfer.link];
    const std::int64_t now = events_.now_ns();
    while (transfer.hop < link.hops) {
        Resource& resource = resources_[link.path[transfer.hop++]];
        const std::int64_t begin = std::max(now, resource.free_ns);
        resource.free_ns = begin + service_ns(resource, transfer.chunk);
        transfer.end_ns = std::max(transfer.end_ns, resource.free_ns);
        if (begin > now && transfer.hop < link.hops) {
            events_.put(begin, EventKind::hop, number);
            return;
        }
    }
    events_.put(transfer.end_ns + options_.latency.count(), EventKind::arrival, number);
}

Network::Arrival Network::on_arrival(const Event& event) {
    const Transfer transfer = transfers_[event.subject];
    free_transfers_.push_back(event.subject);
    const Link& link = links_[transfer.link];
    const std::int64_t died = ranks_[link.holder].died_ns;
    const bool whole = died < 0 || transfer.sent_ns <= died;
    return {transfer.link, transfer.chunk, link.open && whole};
}

void Network::add_chunk(Rank rank, std::uint32_t chunk) {
    RankState& holder = ranks_[rank];
    if (!holder.has.set(chunk)) return;
    for (const LinkId id : holder.sends) {
        auto& waiting = links_[id].waiting;
        const auto found = std::find(waiting.begin(), waiting.end(), chunk);
        if (found == waiting.end()) continue;
        waiting.erase(found);
        enqueue(id, chunk);
    }
}

void Network::kill(Rank rank) {
    RankState& dead = ranks_[rank];
    WEIGHTCAST_ASSERT(dead.died_ns < 0);
    dead.died_ns = events_.now_ns();
    for (const LinkId id : dead.sends) {
        events_.put(events_.now_ns() + options_.detection.count(), EventKind::lost, id);
    }
    while (!dead.reads.empty()) close(dead.reads.back());
}

}  // namespace weightcast::sim
