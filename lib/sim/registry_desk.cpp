#include "sim/registry_desk.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "base/hex.h"
#include "model/digest.h"
#include "registry/store.h"

namespace weightcast::sim {
namespace {

constexpr std::uint32_t kChunksPerBucket = 64;  // as many as there are bits in a word

}  // namespace

RegistryDesk::RegistryDesk(Duration delay, EventQueue& events, const Network& network)
    : delay_(delay), events_(events), network_(network) {}

Result<std::unique_ptr<RegistryDesk>> RegistryDesk::open(const plan::Topology& topology,
                                                         const std::vector<double>& announced,
                                                         const registry::StateOptions& options,
                                                         Duration delay, std::uint64_t seed,
                                                         EventQueue& events,
                                                         const Network& network) {
    std::unique_ptr<RegistryDesk> desk(new RegistryDesk(delay, events, network));
    WEIGHTCAST_TRY(desk->service_, registry::Service::create(options, registry::make_memory_store(),
                                                             events, "simulation", seed));
    desk->queues_.resize(topology.ranks.size());
    for (Rank rank = 0; rank < topology.ranks.size(); ++rank) {
        const plan::RankSpec& spec = topology.ranks[rank];
        const plan::HostSpec& host = topology.hosts[spec.host];
        registry::PeerInfo info;
        info.name = spec.name;
        info.host = host.name;
        info.labels["rack"] = topology.racks[host.rack].name;
        info.port_rate = static_cast<std::uint64_t>(announced[rank]);
        for (std::size_t i = 0; i < 4; ++i) info.incarnation[i] = std::byte(rank >> (8 * i));
        WEIGHTCAST_TRY(const auto lease, desk->service_->register_peer(info));
        desk->peers_.push_back(lease.peer);
        desk->ranks_[lease.peer.id] = rank;
        if (spec.source) WEIGHTCAST_CHECK(desk->publish(rank));
    }
    return desk;
}

Result<void> RegistryDesk::publish(Rank source) {
    const std::uint32_t chunks = network_.options().chunks;
    const std::array<std::byte, 1> manifest{};
    registry::PublishRequest request;
    request.peer = peers_[source];
    request.model = kModel;
    request.version = kVersion;
    request.manifest = model::sha256(manifest);
    request.manifest_bytes = manifest.size();
    request.bytes = network_.options().bytes;
    request.chunk_count = chunks;
    request.bucket_count = (chunks + kChunksPerBucket - 1) / kChunksPerBucket;
    request.channel = "stable";
    WEIGHTCAST_CHECK(service_->put_manifest(request.manifest, manifest));
    WEIGHTCAST_CHECK(service_->publish(request));
    WEIGHTCAST_CHECK(service_->hold(peers_[source], describe(source)));
    return success();
}

registry::HoldingProgress RegistryDesk::progress(Rank rank) const {
    const Availability& has = network_.availability(rank);
    std::vector<std::byte> buckets((has.words().size() + 7) / 8);
    for (std::size_t bucket = 0; bucket < has.words().size(); ++bucket) {
        if (~has.words()[bucket] == 0) buckets[bucket / 8] |= std::byte(1U << (bucket % 8));
    }
    return {kModel, kVersion, has.complete(), network_.bytes_held(rank), to_hex(buckets)};
}

registry::Holding RegistryDesk::describe(Rank rank) const {
    registry::HoldingProgress now = progress(rank);
    registry::Holding holding;
    holding.model = now.model;
    holding.version = now.version;
    holding.complete = now.complete;
    holding.bytes_held = now.bytes_held;
    holding.buckets = std::move(now.buckets);
    return holding;
}

void RegistryDesk::ask(Rank rank, Job job, Then then) {
    queues_[rank].push_back({std::move(job), std::move(then)});
    if (queues_[rank].size() == 1) send(rank);
}

void RegistryDesk::send(Rank rank) {
    events_.put(events_.now_ns() + delay_.count() / 2, EventKind::asked, rank);
}

void RegistryDesk::count() {
    ++requests_;
    const auto second = static_cast<std::uint64_t>(events_.now_ns() / 1000000000);
    if (second != second_) in_second_ = 0;
    second_ = second;
    busiest_ = std::max(busiest_, ++in_second_);
}

void RegistryDesk::on_asked(const Event& event) {
    auto& queue = queues_[event.subject];
    if (queue.empty()) return;
    count();
    queue.front().job(*service_, peers_[event.subject]);
    events_.put(events_.now_ns() + delay_.count() / 2, EventKind::answered, event.subject);
}

void RegistryDesk::on_answered(const Event& event) {
    auto& queue = queues_[event.subject];
    if (queue.empty()) return;
    const Then then = std::move(queue.front().then);
    queue.pop_front();
    if (!queue.empty()) send(event.subject);
    if (then) then();
}

}  // namespace weightcast::sim
