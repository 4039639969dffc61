// The bound of a fleet: every cut is evaluated, and the one that takes longest is named.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "plan/bound.h"

namespace weightcast::plan {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

enum class Cut {
    nothing,
    source_ports,
    source_host_ports,
    rank_port,
    rank_links,
    host_ports,
    all_ports,
    rack_ports,
    rack_uplink,
    source_uplinks,
    all_uplinks,
    depth
};

struct Limit {
    double seconds = 0;
    Cut cut = Cut::nothing;
    std::size_t at = 0;      // index of the rank, host or rack
    std::size_t others = 0;  // of rank_links
};

double limit_of(double rate) {
    if (rate > 0) return rate;
    return kNoLimit;
}

// What the cuts need to know of a host or a rack.
struct Place {
    std::vector<std::uint32_t> receivers;  // of a host: ranks, the slowest port first
    std::uint32_t ranks = 0;
    std::uint32_t sources = 0;
    std::uint32_t needy_hosts = 0;  // of a rack: hosts without a source
    // Somebody is there and nobody is a source.
    bool needy() const { return ranks > 0 && sources == 0; }
};

class Fleet {
  public:
    Fleet(const Topology& topology, std::uint64_t bytes, double alpha);

    // With k = `blocks`, of which the source ports send `source_rounds` one after the other; 0 and
    // 0 if alpha is 0 and the depth does not count.
    Limit limit(std::uint64_t blocks, double source_rounds);
    Limit limit(std::uint64_t blocks) {
        return limit(blocks, std::ceil(static_cast<double>(blocks) / source_ports_));
    }
    // With the k that makes it least. Rounds are not rounded up here: so the limit falls with k
    // while the depth sets it and grows from there on, and the least is found by halving.
    Limit least_limit();
    std::string name(const Limit& limit) const;
    bool has_receivers() const { return receivers_ > 0; }

  private:
    // Bytes a second of a port that also needs alpha for each block.
    double port(double rate) const {
        const double limit = limit_of(rate);
        if (alpha_ <= 0) return limit;
        return block_ / (block_ / limit + alpha_);
    }
    // Bytes a second between the ranks of the host.
    double local(std::size_t host) const {
        return hosts_[host].ranks > 1 ? limit_of(topology_.hosts[host].local) : 0;
    }
    // `copies` of all bytes have to get through at `rate`.
    void cut(double copies, double rate, Cut cut, std::size_t at = 0, std::size_t others = 0);
    void cut_hosts();
    void cut_fleet();
    void cut_racks();
    void cut_depth(double source_rounds);
    void count_doublings();

    const Topology& topology_;
    const double bytes_;
    const double alpha_;
    std::vector<Place> hosts_;
    std::vector<Place> racks_;
    std::uint32_t receivers_ = 0;
    std::uint32_t needy_hosts_ = 0;   // without a source
    std::uint32_t source_ports_ = 0;  // of hosts with a source
    double rounds_ = 0;               // until one block is on all hosts
    double fastest_ = 0;              // rate out of the fastest port
    double source_fastest_ = 0;       // of hosts with a source
    double block_ = 0;                // bytes
    Limit worst_;
};

Fleet::Fleet(const Topology& topology, std::uint64_t bytes, double alpha)
    : topology_(topology),
      bytes_(static_cast<double>(bytes)),
      alpha_(alpha),
      hosts_(topology.hosts.size()),
      racks_(topology.racks.size()) {
    for (std::size_t i = 0; i < topology.ranks.size(); ++i) {
        const RankSpec& rank = topology.ranks[i];
        Place& host = hosts_[rank.host];
        ++host.ranks;
        fastest_ = std::max(fastest_, limit_of(rank.up));
        if (rank.source) {
            ++host.sources;
        } else {
            host.receivers.push_back(static_cast<std::uint32_t>(i));
            ++receivers_;
        }
    }
    const auto slower = [&](std::uint32_t a, std::uint32_t b) {
        const double rate = limit_of(topology.ranks[a].down);
        return std::pair(rate, a) < std::pair(limit_of(topology.ranks[b].down), b);
    };
    for (const RankSpec& rank : topology.ranks) {
        if (!hosts_[rank.host].needy())
            source_fastest_ = std::max(source_fastest_, limit_of(rank.up));
    }
    for (std::size_t i = 0; i < hosts_.size(); ++i) {
        Place& host = hosts_[i];
        std::sort(host.receivers.begin(), host.receivers.end(), slower);
        Place& rack = racks_[topology.hosts[i].rack];
        rack.ranks += host.ranks;
        rack.sources += host.sources;
        if (host.sources > 0) source_ports_ += host.ranks;
        if (host.needy()) ++rack.needy_hosts;
    }
    count_doublings();
}

// Each port of a host that has the block gives it to another host in a round, largest hosts first.
void Fleet::count_doublings() {
    std::vector<std::uint32_t> waiting;
    for (const Place& host : hosts_) {
        if (host.needy()) waiting.push_back(host.ranks);
    }
    needy_hosts_ = static_cast<std::uint32_t>(waiting.size());
    std::sort(waiting.begin(), waiting.end(), std::greater<>());
    std::uint64_t ports = source_ports_;
    for (std::size_t reached = 0; ports > 0 && reached < waiting.size(); ++rounds_) {
        const std::size_t next = reached + static_cast<std::size_t>(std::min<std::uint64_t>(
                                               ports, waiting.size() - reached));
        while (reached < next) ports += waiting[reached++];
    }
}

void Fleet::cut(double copies, double rate, Cut cut, std::size_t at, std::size_t others) {
    const double seconds = copies * bytes_ / rate;
    if (seconds > worst_.seconds) worst_ = {seconds, cut, at, others};
}

void Fleet::cut_hosts() {
    for (std::size_t i = 0; i < hosts_.size(); ++i) {
        const Place& host = hosts_[i];
        double ports = 0;
        for (std::size_t taken = 0; taken < host.receivers.size(); ++taken) {
            ports += port(topology_.ranks[host.receivers[taken]].down);
            const auto copies = static_cast<double>(taken + 1);
            cut(copies, ports + local(i), taken == 0 ? Cut::rank_port : Cut::rank_links,
                host.receivers[0], taken);
        }
        if (host.sources == 0 && host.ranks > 1) cut(1, ports, Cut::host_ports, i);
    }
}

void Fleet::cut_fleet() {
    double sources = 0;       // from sources, to any rank
    double source_hosts = 0;  // from hosts with a source, to other hosts
    double ports = 0;
    double links = 0;
    for (std::size_t i = 0; i < hosts_.size(); ++i) {
        links += local(i);
        if (hosts_[i].sources > 0) sources += local(i);
    }
    for (const RankSpec& rank : topology_.ranks) {
        const double up = port(rank.up);
        ports += up;
        if (rank.source) sources += up;
        if (hosts_[rank.host].sources > 0) source_hosts += up;
    }
    cut(1, sources, Cut::source_ports);
    if (needy_hosts_ > 0) cut(1, source_hosts, Cut::source_host_ports);
    cut(receivers_, ports + links, Cut::all_ports);
    cut(needy_hosts_, ports, Cut::all_ports);
}

void Fleet::cut_racks() {
    std::vector<double> ports(racks_.size());
    std::vector<double> links(racks_.size());
    for (std::size_t i = 0; i < hosts_.size(); ++i) links[topology_.hosts[i].rack] += local(i);
    for (const RankSpec& rank : topology_.ranks) {
        ports[topology_.hosts[rank.host].rack] += port(rank.up);
    }
    double out_of_sources = 0;
    double out_of_all = 0;
    std::uint32_t needy = 0;
    for (std::size_t i = 0; i < racks_.size(); ++i) {
        const double out = std::min(limit_of(topology_.racks[i].up), ports[i]);
        out_of_all += out;
        if (racks_[i].sources > 0) out_of_sources += out;
        if (racks_[i].needy()) ++needy;
    }
    if (needy > 0) cut(1, out_of_sources, Cut::source_uplinks);
    cut(needy, out_of_all, Cut::all_uplinks);
    for (std::size_t i = 0; i < racks_.size(); ++i) {
        if (racks_[i].ranks == 0) continue;
        const double into = limit_of(topology_.racks[i].down);
        if (racks_[i].needy()) cut(1, into, Cut::rack_uplink, i);
        cut(racks_[i].ranks - racks_[i].sources, into + ports[i] + links[i], Cut::rack_ports, i);
        cut(racks_[i].needy_hosts, into + ports[i], Cut::rack_ports, i);
    }
}

void Fleet::cut_depth(double source_rounds) {
    if (needy_hosts_ == 0 || source_rounds <= 0) return;
    const double seconds = source_rounds * (block_ / source_fastest_ + alpha_) +
                           (rounds_ - 1) * (block_ / fastest_ + alpha_);
    if (seconds > worst_.seconds) worst_ = {seconds, Cut::depth};
}

Limit Fleet::limit(std::uint64_t blocks, double source_rounds) {
    worst_ = {};
    block_ = bytes_ / static_cast<double>(std::max<std::uint64_t>(blocks, 1));
    // Of equals the first is named, so the widest come first.
    cut_fleet();
    cut_racks();
    cut_hosts();
    cut_depth(source_rounds);
    return worst_;
}

Limit Fleet::least_limit() {
    if (alpha_ <= 0) return limit(0, 0);
    const auto relaxed = [&](std::uint64_t blocks) {
        return limit(blocks, std::max(static_cast<double>(blocks) / source_ports_, 1.0));
    };
    std::uint64_t low = 1;
    auto high = static_cast<std::uint64_t>(std::max(bytes_, 1.0));
    while (low < high) {
        const std::uint64_t middle = low + (high - low) / 2;
        if (relaxed(middle).seconds <= relaxed(middle + 1).seconds) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return relaxed(low);
}

std::string Fleet::name(const Limit& limit) const {
    switch (limit.cut) {
        case Cut::nothing:
            return has_receivers() ? "nothing known" : "no receivers";
        case Cut::source_ports:
            return "source ports";
        case Cut::source_host_ports:
            return "ports of the sources' hosts";
        case Cut::rank_port:
            return "port into rank " + topology_.ranks[limit.at].name;
        case Cut::rank_links:
            return fmt::format("links into {} and {} others of its host",
                               topology_.ranks[limit.at].name, limit.others);
        case Cut::host_ports:
            return "ports into host " + topology_.hosts[limit.at].name;
        case Cut::all_ports:
            return "all ports together";
        case Cut::rack_ports:
            return "ports of rack " + topology_.racks[limit.at].name;
        case Cut::rack_uplink:
            return "uplink into rack " + topology_.racks[limit.at].name;
        case Cut::source_uplinks:
            return "uplinks out of the racks with sources";
        case Cut::all_uplinks:
            return "all uplinks together";
        case Cut::depth:
            return "depth";
    }
    return {};
}

}  // namespace

Bound fleet_bound(const Topology& topology, std::uint64_t bytes, const BlockCost& cost) {
    Fleet fleet(topology, bytes, cost.seconds);
    if (!fleet.has_receivers() || bytes == 0) return {0, fleet.name({})};
    const Limit limit = cost.blocks > 0 ? fleet.limit(cost.blocks) : fleet.least_limit();
    return {limit.seconds, fleet.name(limit)};
}

}  // namespace weightcast::plan
