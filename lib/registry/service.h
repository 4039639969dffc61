// State machine and store together, as the Api that they serve: what the HTTP server calls, and a
// simulation directly. Thread-bound; calls block only for the store's writes.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "registry/api.h"
#include "registry/event.h"
#include "registry/state.h"
#include "registry/store.h"

namespace weightcast::registry {

class Service final : public Api {
  public:
    // `boot_epoch` must differ from that of every earlier start. Borrows the clock.
    // Errors: those of Store::load.
    static Result<std::unique_ptr<Service>> create(const StateOptions& options,
                                                   std::unique_ptr<Store> store, const Clock& clock,
                                                   std::string boot_epoch, std::uint64_t seed);

    Result<ClusterInfo> cluster() override;
    Result<PeerLease> register_peer(const PeerInfo& info) override;
    Result<HeartbeatReply> heartbeat(const Heartbeat& heartbeat) override;
    Result<void> leave(const PeerRef& peer) override;
    Result<PublishReply> publish(const PublishRequest& request) override;
    Result<void> put_manifest(const model::Sha256& name,
                              std::span<const std::byte> encoded) override;
    Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) override;
    Result<void> hold(const PeerRef& peer, const Holding& holding) override;
    Result<DropReply> drop(const DropRequest& request) override;
    Result<Grant> open_pull(const PullRequest& request) override;
    Result<Grant> renew_pull(const RenewRequest& request) override;
    Result<void> close_pull(const CloseRequest& request) override;
    Result<void> report(const HolderReport& report) override;
    Result<std::vector<ModelInfo>> list_models() override;
    Result<ModelInfo> find_model(const std::string& name) override;
    Result<std::vector<PeerSummary>> list_peers() override;
    Result<ChannelInfo> set_channel(const SetChannelRequest& request) override;
    Result<std::vector<ChannelMoved>> history(const std::string& model, const std::string& channel,
                                              std::size_t count_max) override;

    Result<std::vector<PeerRef>> holders_of_bucket(const std::string& model, std::uint64_t version,
                                                   std::uint64_t bucket, std::size_t count_max);

    // The last connection by which the peer called is gone.
    void disconnected(std::uint64_t peer) { state_.disconnected(peer); }
    // Expires what is due; call it several times a lease. `late`: how much later than meant, for
    // a registry that stood still has not heard the heartbeats that wait in its sockets.
    void tick(Duration late);

    const EventRing& events() const { return events_; }
    const StateCounts& counts() const { return state_.counts(); }
    StoreStats store_stats() const { return store_->stats(); }

  private:
    Service(const StateOptions& options, std::unique_ptr<Store> store, const Clock& clock,
            std::string boot_epoch, std::uint64_t seed);
    // Begins every call. Errors: unavailable (the store failed for good).
    Result<void> enter();
    // Writes, then applies.
    Result<void> make_so(const std::vector<Change>& changes);
    void collect_events();

    StateOptions options_;
    std::unique_ptr<Store> store_;
    const Clock& clock_;
    State state_;
    // All who held something at an earlier start have said so by then, or are gone.
    const TimePoint settled_;
    EventRing events_;
};

}  // namespace weightcast::registry
