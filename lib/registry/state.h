// The registry's rules, without any input or output: time comes as an argument, randomness from a
// seed, and what must be durable is given back as Changes. Thread-bound.
//
// Commands that give Planned or Changes have decided, not done: write the changes to the store,
// then apply them. All others take effect at once. Messages are taken as checked by validate.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "plan/forest.h"
#include "registry/change.h"
#include "registry/deadlines.h"
#include "registry/event.h"
#include "registry/manifest_queue.h"
#include "registry/messages.h"
#include "registry/placement.h"
#include "weightcast/result.h"

namespace weightcast::registry {

struct StateOptions {
    std::uint32_t lease_ms = 5000;
    std::uint32_t grace_ms = 2000;  // added to a lease before its peer is taken for dead
    std::uint32_t peers_max = 65536;
    std::uint32_t holdings_per_peer_max = 64;
    std::uint32_t pulls_per_peer_max = 256;
    std::uint32_t hints_max = 64;                      // of one grant, whatever was asked for
    std::uint32_t versions_per_model_max = 1U << 20U;  // without those that are retired
    std::uint32_t versions_kept = 128;  // of a model, the newest, though nobody has them
    std::uint32_t retired_max = 65536;  // of a model, whose digests are known
    std::uint32_t models_max = 65536;
    std::uint32_t channels_per_model_max = 1024;
    std::uint32_t accusers_to_quarantine = 2;  // distinct readers that report a corrupt holder
    std::uint32_t stripes_min = 2;             // of a plan; as many as there are sources, up to
    std::uint32_t stripes_max = 16;
    std::uint32_t gather_ms = 5;       // readers that come so soon after each other are planned
    std::uint32_t gather_ms_max = 60;  // together; nobody waits longer than this,
    std::uint32_t gather_ms_all = 1;   // nor than this, where all that opened a pull have come
    Placement placement;
};

struct StateCounts {
    std::uint64_t peers = 0;
    std::uint64_t holdings = 0;
    std::uint64_t pulls = 0;
    std::uint64_t models = 0;
    std::uint64_t versions = 0;
    std::uint64_t expired_peers = 0;
    std::uint64_t readers_disconnected = 0;
    std::uint64_t plans = 0;  // of readers that came together
    std::uint64_t reports = 0;
    std::uint64_t quarantines = 0;
    std::uint64_t completed_pulls = 0;
    std::uint64_t failed_pulls = 0;
    std::uint64_t bytes_pulled = 0;
};

class State {
  public:
    State(const StateOptions& options, ClusterInfo cluster, std::uint64_t seed);

    const ClusterInfo& cluster() const { return cluster_; }
    const StateCounts& counts() const { return counts_; }
    // So long a peer may be silent.
    Duration lease_and_grace() const;

    // Applies a durable change; also used to load the store. REQUIRES: in the order they were made
    void apply(const Change& change);

    // Removes the peers whose lease and grace are over, with their holdings and read leases.
    void expire(TimePoint now);
    // Nothing expires before `time`: for a registry that was itself too late to hear heartbeats.
    void forgive_until(TimePoint time);
    // The events since the last call.
    std::vector<Event> take_events() { return std::exchange(events_, {}); }

    Result<PeerLease> register_peer(const PeerInfo& info, TimePoint now);
    Result<HeartbeatReply> heartbeat(const Heartbeat& heartbeat, TimePoint now);
    // Leaving twice is no error.
    void leave(const PeerRef& peer);
    // It is not connected any more, and may have died. Those who read from it are to read from
    // someone else, until it is heard of; all that it holds stays known for its lease.
    void disconnected(std::uint64_t peer);

    Result<Planned<PublishReply>> publish(const PublishRequest& request,
                                          std::uint64_t wall_ms) const;
    Result<Planned<ChannelInfo>> set_channel(const SetChannelRequest& request,
                                             std::uint64_t wall_ms) const;

    Result<void> hold(const PeerRef& peer, const Holding& holding, TimePoint now);
    Result<DropReply> drop(const DropRequest& request);

    Result<Grant> open_pull(const PullRequest& request, TimePoint now);
    Result<Grant> renew_pull(const RenewRequest& request, TimePoint now);
    // Closing twice is no error.
    Result<void> close_pull(const CloseRequest& request);
    Result<std::vector<Change>> report(const HolderReport& report);

    // Retires what is old, has no holder and is named by no channel, a few versions at a time, as
    // long as there are more than versions_kept. `but_not`: a version whose publisher does not hold
    // it yet.
    std::vector<Change> retire(const std::string& model, std::uint64_t but_not);

    std::vector<ModelInfo> list_models() const;
    Result<ModelInfo> find_model(const std::string& name) const;
    std::vector<PeerSummary> list_peers(TimePoint now) const;
    // At most `count_max` hinted holders that have all of a bucket, least read first.
    Result<std::vector<PeerRef>> holders_of_bucket(const std::string& model, std::uint64_t version,
                                                   std::uint64_t bucket,
                                                   std::size_t count_max) const;

  private:
    // Order of preference among the holders of a version.
    struct Rank {
        bool empty = false;  // nothing verified yet
        std::uint32_t readers = 0;
        std::uint64_t tie = 0;  // random
        std::uint64_t peer = 0;
        auto operator<=>(const Rank&) const = default;
    };
    // Who reads from whom, as long as somebody reads.
    struct Planning {
        explicit Planning(const plan::ForestOptions& options) : forest(options) {}
        plan::Forest forest;
        std::vector<std::uint64_t> gathering;             // peers that are about to be planned
        TimePoint since{};                                // of the first of them
        TimePoint last{};                                 // that one came
        TimePoint started{};                              // when the first reader was planned
        std::unordered_map<std::uint64_t, double> rates;  // of readers, bytes/s
        std::unordered_map<std::uint64_t, std::uint32_t> slow;  // how often in a row
        Deadlines renewals;                                     // of readers
        // Readers that could not reach a holder.
        std::unordered_map<std::uint64_t, std::set<std::uint64_t>> accusers;
    };
    struct Version {
        VersionInfo info;
        std::unique_ptr<Planning> planning;
        std::set<Rank> ranked;    // all that may be hinted
        std::set<Rank> complete;  // those of them that have everything
        ManifestQueue manifest;   // of the open pulls that do not have it yet
        std::uint32_t pulls = 0;  // that are open
        std::unordered_map<std::string, std::set<Rank>> by_host;
        std::map<std::uint64_t, std::set<std::string>> accusers;  // by holder; names of readers
        std::set<std::uint64_t> quarantined;                      // holders
    };
    struct Model {
        std::map<std::uint64_t, Version> versions;
        std::map<std::string, ChannelInfo> channels;
        std::map<std::uint64_t, model::Digest> retired;  // roots by version, of the latest of them
        std::uint64_t retired_before = 0;  // this number and all below that are not known were used
        std::uint64_t looked_at = 0;       // by retire(), lately
    };
    struct Held {
        Holding holding;
        Rank rank;
        bool ranked = false;
    };
    struct Peer {
        PeerRef ref;
        PeerInfo info;
        TimePoint deadline;
        std::map<Version*, Held> holdings;
        std::unordered_set<std::uint64_t> pulls;
        std::set<std::pair<const Version*, std::uint64_t>> distrusted;
        std::set<Version*> accused_in;  // versions with this peer among their accused
        std::uint32_t readers = 0;
        std::uint64_t accused = 0;
    };
    struct Pull {
        std::uint64_t peer = 0;
        Version* version = nullptr;
        std::string channel;
        std::uint64_t generation = 0;
        std::vector<std::uint64_t> holders;  // that count it among their readers
        std::set<std::uint64_t> hinted;      // so far, and not known to have failed it
    };
    using Deadline = std::pair<TimePoint, std::uint64_t>;

    Result<Peer*> find_peer(const PeerRef& ref);
    Result<const Peer*> find_peer(const PeerRef& ref) const;
    // Errors: not_found.
    Result<const Model*> known_model(const std::string& name) const;
    Result<Version*> find_version(const std::string& model, std::uint64_t version);
    Result<const Version*> find_version(const std::string& model, std::uint64_t version) const;
    PeerLease lease_of(const Peer& peer) const;
    void remove_peer(std::uint64_t id, const char* why);
    void remove_holding(Peer& peer, Version& version);
    // Whether nobody else has all of a version that a channel names.
    bool is_last(const Peer& peer, Version& version) const;
    // Errors: no_space (it holds as many versions as it may).
    Result<void> check_may_hold(const Peer& peer) const;
    // Errors: no_space, conflict (it was other bytes).
    Result<void> check_new_version(const Peer& publisher, const PublishRequest& request) const;
    void remove_pull(std::uint64_t id);

    void rank(const Peer& peer, Version& version, Held& held);
    void unrank(const Peer& peer, Version& version, Held& held);
    void change_readers(std::uint64_t holder, bool more);
    void accuse(const Peer& reporter, Peer& holder, Version& version);
    std::vector<std::uint64_t> choose(const Peer& reader, const Version& version,
                                      std::span<const std::uint64_t> avoid,
                                      std::uint32_t count_max) const;
    // The grant without holders.
    Grant new_grant(std::uint64_t id, const Pull& pull) const;
    Grant acknowledgement(std::uint64_t id) const;
    // Whom to ask for the manifest comes first, or when to ask for that.
    Grant grant_manifest(std::uint64_t id, Pull& pull, std::span<const std::uint64_t> avoid,
                         std::uint32_t count_max, TimePoint now);
    // `first` comes first, if it is not 0 and there is no plan.
    Grant fill_grant(std::uint64_t id, Pull& pull, std::span<const std::uint64_t> avoid,
                     std::uint32_t count_max, std::uint64_t first = 0);
    Grant choose_grant(std::uint64_t id, Pull& pull, std::span<const std::uint64_t> avoid,
                       std::uint32_t count_max, std::uint64_t first);
    HolderHint hint_of(std::uint64_t holder, Version& version) const;

    // Plans (state_plan.cpp)
    plan::Member member_of(const Peer& peer, Version& version) const;
    // How long the reader is to wait for its plan; none if it has one.
    Duration gather(const Peer& reader, Version& version, TimePoint now);
    void plan_gathered(Version& version, TimePoint now);
    void expect_renewal(std::uint64_t peer, Version& version, TimePoint now);
    void expel(std::uint64_t peer, Planning& planning);
    std::uint32_t renew_ms_of(const Version& version, TimePoint now) const;
    void replan_holding(const Peer& peer, Version& version);
    void unplan(std::uint64_t peer, Version& version);
    void note_rate(const Peer& reader, Version& version, double rate);
    void suspect(std::uint64_t reader, Version& version, std::uint64_t holder);
    void shun(const Peer& reader, Version& version, std::span<const std::uint64_t> avoid);
    void fill_planned(Grant& grant, Pull& pull, std::span<const std::uint64_t> avoid,
                      std::uint32_t count_max);
    Result<Pull> resolve(const PullRequest& request, const Peer& peer);

    static VersionInfo describe(const Version& version);
    static ModelInfo describe(const std::string& name, const Model& model);
    static bool is_wanted(const Model& model, const Version& version);
    void erase(Model& model, std::uint64_t version);

    StateOptions options_;
    ClusterInfo cluster_;
    Random random_;
    std::uint64_t next_id_;
    std::uint64_t next_epoch_;
    TimePoint forgiven_until_{};
    std::map<std::string, Model> models_;
    std::unordered_map<std::uint64_t, Peer> peers_;
    std::unordered_map<std::string, std::uint64_t> names_;
    std::unordered_map<std::uint64_t, Pull> pulls_;
    // One entry per peer, perhaps of a deadline that has moved since: corrected when it comes up.
    std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;
    std::vector<Event> events_;
    StateCounts counts_;
};

}  // namespace weightcast::registry
