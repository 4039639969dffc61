#include "registry/service.h"

#include <fmt/core.h>

#include <utility>

#include "registry/validate.h"

namespace weightcast::registry {
namespace {

constexpr std::size_t kEventsKept = 4096;
constexpr std::uint64_t kFirstEventBound = 1ULL << 48U;

}  // namespace

Service::Service(const StateOptions& options, std::unique_ptr<Store> store, const Clock& clock,
                 std::string boot_epoch, std::uint64_t seed)
    : options_(options),
      store_(std::move(store)),
      clock_(clock),
      state_(options, {store_->cluster_id(), std::move(boot_epoch), kProtocolVersion}, seed),
      settled_(clock.now() + state_.lease_and_grace()),
      events_(kEventsKept, 1 + Random(~seed).below(kFirstEventBound)) {}

Result<std::unique_ptr<Service>> Service::create(const StateOptions& options,
                                                 std::unique_ptr<Store> store, const Clock& clock,
                                                 std::string boot_epoch, std::uint64_t seed) {
    std::unique_ptr<Service> service(
        new Service(options, std::move(store), clock, std::move(boot_epoch), seed));
    WEIGHTCAST_TRY(const auto changes, service->store_->load());
    for (const Change& change : changes) service->state_.apply(change);
    service->state_.take_events();  // what was loaded is no news
    return service;
}

Result<void> Service::enter() {
    if (store_->failed()) {
        return Error{Code::unavailable, 0,
                     "the registry's store failed, nothing is acknowledged any more: look at its "
                     "disk and restart it"};
    }
    state_.expire(clock_.now());
    collect_events();
    return success();
}

void Service::collect_events() {
    for (Event& event : state_.take_events()) events_.push(std::move(event));
}

void Service::tick(Duration late) {
    const TimePoint now = clock_.now();
    if (late > std::chrono::milliseconds(options_.grace_ms) / 2) {
        state_.forgive_until(now + std::chrono::milliseconds(options_.lease_ms));
    }
    state_.expire(now);
    collect_events();
}

Result<void> Service::make_so(const std::vector<Change>& changes) {
    if (changes.empty()) return success();
    WEIGHTCAST_CHECK(store_->commit(changes));
    for (const Change& change : changes) state_.apply(change);
    collect_events();
    return success();
}

Result<ClusterInfo> Service::cluster() {
    WEIGHTCAST_CHECK(enter());
    return state_.cluster();
}

Result<PeerLease> Service::register_peer(const PeerInfo& info) {
    WEIGHTCAST_CHECK(check(info));
    WEIGHTCAST_CHECK(enter());
    auto lease = state_.register_peer(info, clock_.now());
    collect_events();
    return lease;
}

Result<HeartbeatReply> Service::heartbeat(const Heartbeat& heartbeat) {
    WEIGHTCAST_CHECK(check(heartbeat));
    WEIGHTCAST_CHECK(enter());
    return state_.heartbeat(heartbeat, clock_.now());
}

Result<void> Service::leave(const PeerRef& peer) {
    WEIGHTCAST_CHECK(enter());
    state_.leave(peer);
    collect_events();
    return success();
}

Result<PublishReply> Service::publish(const PublishRequest& request) {
    WEIGHTCAST_CHECK(check(request));
    WEIGHTCAST_CHECK(enter());
    WEIGHTCAST_TRY(auto planned, state_.publish(request, clock_.wall_ms()));
    const auto bytes = store_->manifest_bytes(request.manifest);
    if (!bytes && bytes.error().code != Code::not_found) return bytes.error();
    if (!bytes || bytes.value() != request.manifest_bytes) {
        return Error{Code::invalid_input, 0,
                     fmt::format("manifest {} of {} bytes must be put before {}@{} is published",
                                 model::to_string(request.manifest), request.manifest_bytes,
                                 request.model, request.version)};
    }
    WEIGHTCAST_CHECK(make_so(planned.changes));
    if (planned.reply.created && clock_.now() >= settled_) {
        // It is published, whatever becomes of that.
        static_cast<void>(make_so(state_.retire(request.model, request.version)));
    }
    return std::move(planned.reply);
}

Result<void> Service::put_manifest(const model::Sha256& name, std::span<const std::byte> encoded) {
    WEIGHTCAST_CHECK(enter());
    if (encoded.size() > kManifestBytesMax) {
        return Error{Code::invalid_input, 0,
                     fmt::format("the manifest has {} bytes, the limit is {}", encoded.size(),
                                 kManifestBytesMax)};
    }
    if (const auto actual = model::sha256(encoded); actual != name) {
        return Error{Code::invalid_input, 0,
                     fmt::format("the manifest's SHA-256 is {}, not {}", model::to_string(actual),
                                 model::to_string(name))};
    }
    return store_->put_manifest(name, encoded);
}

Result<std::vector<std::byte>> Service::get_manifest(const model::Sha256& name) {
    WEIGHTCAST_CHECK(enter());
    return store_->get_manifest(name);
}

Result<void> Service::hold(const PeerRef& peer, const Holding& holding) {
    WEIGHTCAST_CHECK(check(holding));
    WEIGHTCAST_CHECK(enter());
    return state_.hold(peer, holding, clock_.now());
}

Result<DropReply> Service::drop(const DropRequest& request) {
    WEIGHTCAST_CHECK(check_model_name(request.model));
    WEIGHTCAST_CHECK(enter());
    return state_.drop(request);
}

Result<Grant> Service::open_pull(const PullRequest& request) {
    WEIGHTCAST_CHECK(check(request));
    WEIGHTCAST_CHECK(enter());
    return state_.open_pull(request, clock_.now());
}

Result<Grant> Service::renew_pull(const RenewRequest& request) {
    WEIGHTCAST_CHECK(check(request));
    WEIGHTCAST_CHECK(enter());
    return state_.renew_pull(request, clock_.now());
}

Result<void> Service::close_pull(const CloseRequest& request) {
    WEIGHTCAST_CHECK(enter());
    return state_.close_pull(request);
}

Result<void> Service::report(const HolderReport& report) {
    WEIGHTCAST_CHECK(check(report));
    WEIGHTCAST_CHECK(enter());
    const auto changes = state_.report(report);
    collect_events();
    if (!changes) return changes.error();
    return make_so(changes.value());
}

Result<std::vector<ModelInfo>> Service::list_models() {
    WEIGHTCAST_CHECK(enter());
    return state_.list_models();
}

Result<ModelInfo> Service::find_model(const std::string& name) {
    WEIGHTCAST_CHECK(enter());
    return state_.find_model(name);
}

Result<std::vector<PeerSummary>> Service::list_peers() {
    WEIGHTCAST_CHECK(enter());
    return state_.list_peers(clock_.now());
}

Result<ChannelInfo> Service::set_channel(const SetChannelRequest& request) {
    WEIGHTCAST_CHECK(check(request));
    WEIGHTCAST_CHECK(enter());
    WEIGHTCAST_TRY(auto planned, state_.set_channel(request, clock_.wall_ms()));
    WEIGHTCAST_CHECK(make_so(planned.changes));
    return std::move(planned.reply);
}

Result<std::vector<PeerRef>> Service::holders_of_bucket(const std::string& model,
                                                        std::uint64_t version, std::uint64_t bucket,
                                                        std::size_t count_max) {
    WEIGHTCAST_CHECK(enter());
    return state_.holders_of_bucket(model, version, bucket, count_max);
}

Result<std::vector<ChannelMoved>> Service::history(const std::string& model,
                                                   const std::string& channel,
                                                   std::size_t count_max) {
    WEIGHTCAST_CHECK(enter());
    return store_->history(model, channel, count_max);
}

}  // namespace weightcast::registry
