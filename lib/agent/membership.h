// This process's standing with the registry: registered, its lease renewed, what it holds
// announced. A registry that forgot it (a restart, a lost store, an expired lease) is told
// everything again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "agent/held_version.h"
#include "base/clock.h"
#include "base/random.h"
#include "registry/api.h"

namespace weightcast::agent {

// Thread-safe. Calls block on the registry unless said otherwise.
class Membership {
  public:
    using Job = std::function<void(Membership&)>;

    // Registers and starts the thread that renews the lease.
    // Errors: as Api::register_peer().
    static Result<std::unique_ptr<Membership>> join(std::unique_ptr<registry::Api> api,
                                                    registry::PeerInfo info);
    // Tells the registry that the peer leaves, if it can be reached.
    ~Membership();
    Membership(const Membership&) = delete;
    Membership& operator=(const Membership&) = delete;

    // Publishes the version and announces that this process holds it; both again whenever the
    // registry forgets. Errors: as Api::publish() and Api::hold().
    Result<registry::PublishReply> publish(const std::shared_ptr<HeldVersion>& held);
    // Announces a version that others published.
    Result<void> hold(const std::shared_ptr<HeldVersion>& held);
    // Tells the registry and withdraws: at once, or when nobody reads it any more or the wait is
    // over. True if then nobody was left. With `unless_last`: conflict, and nothing is done, if
    // nobody else has all of it and a channel names it.
    Result<bool> drop(const std::shared_ptr<HeldVersion>& held,
                      std::chrono::milliseconds readers_wait = {}, bool unless_last = false);
    // Tells what is held now, and not at the next heartbeat; nothing if the registry is down.
    void announce_progress();

    // Runs `job` on the membership's thread, soon. Never blocks. What is left at the end still
    // runs, unless the registry does not answer.
    void post(Job job);
    // Calls the registry as this peer. If it does not know the peer any more, registers again and
    // calls once more.
    template <typename Call>
    auto call(Call&& call) {
        const std::lock_guard lock(api_mutex_);
        auto answer = call(*api_, lease_.peer);
        if (answer || answer.error().code != Code::stale) return answer;
        if (!rejoin()) return answer;
        return call(*api_, lease_.peer);
    }

    std::uint32_t lease_ms() const { return lease_ms_; }
    // Of the registry with which this peer is registered now.
    std::string cluster_id() {
        const std::lock_guard lock(api_mutex_);
        return lease_.cluster.cluster_id;
    }

  private:
    Membership(std::unique_ptr<registry::Api> api, registry::PeerInfo info);
    void run();
    TimePoint next_heartbeat();
    void heartbeat();
    void check_sources();
    bool rejoin();
    Result<void> tell(const std::shared_ptr<HeldVersion>& held);
    Result<registry::PublishReply> put_and_publish(const HeldVersion& held,
                                                   const std::string& channel);
    std::vector<std::shared_ptr<HeldVersion>> holdings();

    std::mutex api_mutex_;  // guards api_ and lease_
    std::unique_ptr<registry::Api> api_;
    registry::PeerInfo info_;
    registry::PeerLease lease_;
    std::atomic<std::uint32_t> lease_ms_{0};
    std::atomic<bool> reachable_{true};
    std::atomic<std::uint64_t> rejoins_{0};
    Random random_;

    std::mutex mutex_;  // guards the rest; never held while calling the registry
    std::condition_variable wake_;
    std::deque<Job> jobs_;
    std::vector<std::shared_ptr<HeldVersion>> holdings_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace weightcast::agent
