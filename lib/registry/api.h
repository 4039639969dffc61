// The registry as an agent sees it. Implemented over HTTP by registry/client.h; in simulation by
// the state machine itself. Calls block, at most for the implementation's deadline.
//
// Errors of every call: unavailable, timed_out (no answer; retry with jitter), refused (token),
// stale (this registry does not know the peer in this epoch: register again, then hold again),
// invalid_input. Further ones stand with the call.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "registry/messages.h"
#include "weightcast/result.h"

namespace weightcast::registry {

class Api {
  public:
    virtual ~Api() = default;

    virtual Result<ClusterInfo> cluster() = 0;

    // Errors: conflict (a living peer has this name), refused (protocol version).
    virtual Result<PeerLease> register_peer(const PeerInfo& info) = 0;
    virtual Result<HeartbeatReply> heartbeat(const Heartbeat& heartbeat) = 0;
    virtual Result<void> leave(const PeerRef& peer) = 0;

    // Idempotent for the same bytes. The manifest must have been put before.
    // Errors: conflict (the version exists with another digest; the message names both).
    virtual Result<PublishReply> publish(const PublishRequest& request) = 0;
    virtual Result<void> put_manifest(const model::Sha256& name,
                                      std::span<const std::byte> encoded) = 0;
    // Errors: not_found.
    virtual Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) = 0;

    // Says that the peer holds (part of) a version; replaces what it said of that version before.
    // Errors: not_found (no such version).
    virtual Result<void> hold(const PeerRef& peer, const Holding& holding) = 0;
    // Nobody is sent to the peer for it any more. Again and again, it tells how many still read:
    // that becomes 0 as they finish or turn to other holders.
    // Errors: conflict (unless_last).
    virtual Result<DropReply> drop(const DropRequest& request) = 0;

    // Errors: not_found (model, version or channel). A version without holders gives a grant with
    // none: renew until some come.
    virtual Result<Grant> open_pull(const PullRequest& request) = 0;
    // Errors: stale (the read lease is gone: open anew), not_found.
    virtual Result<Grant> renew_pull(const RenewRequest& request) = 0;
    virtual Result<void> close_pull(const CloseRequest& request) = 0;
    virtual Result<void> report(const HolderReport& report) = 0;

    virtual Result<std::vector<ModelInfo>> list_models() = 0;
    // Errors: not_found.
    virtual Result<ModelInfo> find_model(const std::string& name) = 0;
    virtual Result<std::vector<PeerSummary>> list_peers() = 0;
    // Errors: conflict (the generation is not the expected one; the message names it), not_found.
    virtual Result<ChannelInfo> set_channel(const SetChannelRequest& request) = 0;
    // The last `count_max` moves of a channel, oldest first; none if there is no such channel.
    virtual Result<std::vector<ChannelMoved>> history(const std::string& model,
                                                      const std::string& channel,
                                                      std::size_t count_max) = 0;
};

}  // namespace weightcast::registry
