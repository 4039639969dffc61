// The Node of the public API (weightcast/node.h), put together from the agent's parts.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "agent/deltas.h"
#include "agent/follow_loop.h"
#include "agent/membership.h"
#include "agent/publish.h"
#include "agent/pull_session.h"
#include "agent/reuse.h"
#include "weightcast/node.h"

namespace weightcast::agent {

class NodeImpl final : public Node {
  public:
    // A version that was pulled into memory, and is served from there.
    struct Arena {
        std::shared_ptr<HeldVersion> held;
        std::shared_ptr<MemoryDestination> memory;
        std::vector<TensorView> tensors;  // by name; those that were wanted
        PullReport report;
    };

    // Errors: as Node::start().
    Result<void> open(const NodeOptions& options);
    ~NodeImpl() override;

    Result<Published> publish(std::span<const std::string> paths,
                              const PublishOptions& options) override;
    Result<Published> publish(std::span<const TensorView> tensors,
                              const PublishOptions& options) override;
    Result<void> withdraw(const std::string& model, std::uint64_t version,
                          const WithdrawOptions& options) override;
    Result<std::unique_ptr<TensorSource>> open_source(std::span<const TensorView> tensors,
                                                      const SourceOptions& options) override;
    Result<PullReport> pull(const PullOptions& options) override;
    Result<std::unique_ptr<PulledMemory>> pull_memory(const PullOptions& options) override;
    Result<std::unique_ptr<PulledMemory>> map_memory(const PullOptions& options) override;
    Result<void> follow_directory(const FollowOptions& options) override;
    Result<std::unique_ptr<WeightSet>> follow_memory(const WeightSetOptions& options) override;
    void cancel_pulls() override;
    const std::string& name() const override { return name_; }
    std::uint64_t bytes_served() const override;

    // For what follows a channel (follow_directory.cpp, weight_set.cpp).
    // The registry's answer to where the channel is now. Errors: not_found, and Api's.
    Result<registry::ChannelInfo> where_is(const std::string& model, const std::string& channel);
    // Watches the channel that the options' reference names. Errors: invalid_input.
    Result<std::unique_ptr<FollowLoop>> follow(const PullOptions& options, FollowTarget& target);
    // Errors: conflict (a channel names it and no peer has all of it), and Api's.
    Result<void> check_not_lost(const std::string& model, std::uint64_t version);
    // Pulls into `arena`, over what it has, if anything. `prepare` is called before that is
    // touched: after it nobody may read there. After an error the arena has a part of the version.
    Result<void> pull_into(const PullOptions& options, Arena& arena,
                           const std::function<Result<void>()>& prepare);
    // Keeps it, to serve it or to take over chunks from it, in the place of an earlier pull of the
    // same version.
    void remember(std::shared_ptr<HeldVersion> held);
    // Neither any more. Nothing if there is nothing. As Membership::drop().
    bool let_go(const std::shared_ptr<HeldVersion>& held,
                std::chrono::milliseconds readers_wait = {});
    // The same, before its memory is overwritten. Errors: conflict, and nothing is done (this is
    // the last whole copy of what a channel names).
    Result<void> give_up(const std::shared_ptr<HeldVersion>& held);
    // Publishes and serves. `offered`, if not null, gets what is served.
    Result<Published> publish_draft(const Draft& draft, const PublishOptions& options,
                                    std::shared_ptr<HeldVersion>* offered = nullptr);
    // Publishes the set that leads from a version to `options.version`, beside that. Null, and the
    // reason is logged, if that fails: the version can be had without.
    std::shared_ptr<HeldVersion> publish_delta_set(std::span<const std::byte> set,
                                                   std::uint64_t from,
                                                   const PublishOptions& options);
    // Serves the newest, if it is not null, and of the others no more than so many in all: for
    // those that are several versions behind.
    void keep_deltas(const std::shared_ptr<HeldVersion>& newest,
                     std::deque<std::shared_ptr<HeldVersion>>& kept, std::size_t count_max);
    IoThread& io() { return *io_; }
    // What the registry knows of a model; nothing of one that it does not know.
    Result<registry::ModelInfo> find_model(const std::string& name);
    // The newest version if it has the same bytes, else the one after it.
    Result<std::uint64_t> pick_version(const model::Manifest& manifest);

  private:
    // A read lease, closed at the registry at the latest when this goes.
    class Lease {
      public:
        Lease() = default;
        Lease(Membership& membership, std::uint64_t pull) : membership_(&membership), pull_(pull) {}
        Lease(Lease&& other) noexcept
            : membership_(std::exchange(other.membership_, nullptr)), pull_(other.pull_) {}
        Lease& operator=(Lease&& other) noexcept {
            std::swap(membership_, other.membership_);
            std::swap(pull_, other.pull_);
            return *this;
        }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        ~Lease() { close(nullptr); }

        // The lease was replaced by a later one while pulling.
        void replace(std::uint64_t pull) { pull_ = pull; }
        // With what came of the pull, if it was completed.
        void close(const PullReport* report);

      private:
        Membership* membership_ = nullptr;
        std::uint64_t pull_ = 0;
    };

    // What a pull has resolved before it moves a byte of the weights.
    struct Resolved {
        registry::Grant grant;
        Lease lease;
        NamedManifest named;
        std::vector<std::uint32_t> tensors;  // chosen by globs; empty: all
        std::vector<std::uint32_t> wanted;   // chunks, ascending
        TimePoint started;
        std::uint64_t cancels = 0;  // cancel_pulls() calls before this pull
    };
    struct Pulled {
        std::shared_ptr<HeldVersion> held;
        PullReport report;
    };

    // What changed since the files of `options.deltas_from`. Null if it is not worth it, or as
    // publish_delta_set(). Errors: invalid_input (they are no earlier version), and of reading.
    Result<std::shared_ptr<HeldVersion>> publish_deltas(const Draft& draft,
                                                        const PublishOptions& options);
    // Sets that were published beside versions from files.
    std::deque<std::shared_ptr<HeldVersion>>& deltas_of(const std::string& model);
    Result<Resolved> resolve(const PullOptions& options);
    void await_manifest(Resolved& resolved, const std::stop_token& stop);
    void tell_of_manifest(const registry::Grant& grant);
    Result<NamedManifest> fetch_manifest(const registry::Grant& grant, const PullOptions& options);
    // After an error `pulled` may have a part of the version.
    // `in_place`: what `destination` held and has not overwritten, or null.
    Result<void> transfer(Resolved& resolved, const std::shared_ptr<Destination>& destination,
                          const std::shared_ptr<HeldVersion>& in_place, const PullOptions& options,
                          Pulled& pulled);
    // Asks who to read from, once this process is known as a holder too.
    void await_plan(Resolved& resolved);
    // Lets peers read what is there of it already, and tells the registry.
    Result<void> offer(const std::shared_ptr<HeldVersion>& held, const PullOptions& options);
    Result<void> run_session(const std::shared_ptr<PullSession>& session, const Resolved& resolved,
                             const PullOptions& options, std::uint64_t bytes_before);
    PullReport make_report(const Resolved& resolved, const PullStatistics& statistics,
                           const PullOptions& options) const;
    // Makes what it can of the missing chunks from deltas and a version that is here: one that was
    // pulled before, or `in_place`, which the destination overwrites, if not null. Deltas that are
    // not to be had, or that are not worth it, are no error.
    Result<std::vector<std::uint32_t>> patch(const Resolved& resolved, Destination& to,
                                             std::span<const std::uint32_t> missing,
                                             const std::shared_ptr<HeldVersion>& in_place,
                                             const PullOptions& options, PullReport& report);
    // The deltas that end at a version, if they have at most so many bytes, into `arena`.
    Result<void> pull_deltas(const std::string& model, std::uint64_t version,
                             std::uint64_t bytes_max, const PullOptions& options, Arena& arena);
    class DeltaChain;
    // All that lead from one version to another, if they have at most so many bytes together.
    Result<void> pull_chain(const model::Manifest& from, const model::Manifest& to,
                            std::uint64_t bytes_max, const PullOptions& options, DeltaChain& chain,
                            PullReport& report);
    // What this node has pulled of a model, a pull that was stopped included.
    HeldVersions pulled_versions(const std::string& model) const;

    std::string name_;
    std::map<std::string, std::string> labels_;
    registry::ClientOptions registry_;
    fabric::Incarnation incarnation_{};
    std::unique_ptr<WorkerPool> workers_;
    std::unique_ptr<IoThread> io_;
    std::unique_ptr<Membership> membership_;

    mutable std::mutex mutex_;
    HeldVersions held_;
    std::deque<std::shared_ptr<HeldVersion>> deltas_;  // that were pulled last, served to others
    std::map<std::string, std::deque<std::shared_ptr<HeldVersion>>> file_deltas_;  // by model
    std::shared_ptr<HeldVersion> stopped_;  // what the last pull that was stopped had so far
    std::vector<std::weak_ptr<PullSession>> sessions_;
    std::uint64_t cancels_ = 0;
};

// Maps the memory of a holder on this host and verifies it (map_memory.cpp).
Result<std::unique_ptr<PulledMemory>> map_holder(
    IoThread& io, const registry::Grant& grant,
    const std::shared_ptr<const model::Manifest>& manifest, const PullReport& report);

}  // namespace weightcast::agent
