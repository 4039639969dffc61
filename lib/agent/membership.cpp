#include "agent/membership.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace weightcast::agent {
namespace {

constexpr std::chrono::milliseconds kDropLook{2};  // for readers that are left

}  // namespace

Membership::Membership(std::unique_ptr<registry::Api> api, registry::PeerInfo info)
    : api_(std::move(api)), info_(std::move(info)), random_(random_seed()) {}

Result<std::unique_ptr<Membership>> Membership::join(std::unique_ptr<registry::Api> api,
                                                     registry::PeerInfo info) {
    std::unique_ptr<Membership> membership(new Membership(std::move(api), std::move(info)));
    WEIGHTCAST_TRY(membership->lease_, membership->api_->register_peer(membership->info_));
    membership->lease_ms_ = membership->lease_.lease_ms;
    membership->thread_ = std::thread([self = membership.get()] { self->run(); });
    return membership;
}

Membership::~Membership() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
    if (reachable_) static_cast<void>(api_->leave(lease_.peer));
}

std::vector<std::shared_ptr<HeldVersion>> Membership::holdings() {
    const std::lock_guard lock(mutex_);
    return holdings_;
}

Result<registry::PublishReply> Membership::put_and_publish(const HeldVersion& held,
                                                           const std::string& channel) {
    registry::PublishRequest request = held.publish_request();
    request.peer = lease_.peer;
    request.channel = channel;
    WEIGHTCAST_CHECK(api_->put_manifest(held.named().name, held.named().encoded));
    auto reply = api_->publish(request);
    if (reply || reply.error().code != Code::invalid_input) return reply;
    // An old version may have been retired in between, and its manifest with it.
    WEIGHTCAST_CHECK(api_->put_manifest(held.named().name, held.named().encoded));
    return api_->publish(request);
}

Result<registry::PublishReply> Membership::publish(const std::shared_ptr<HeldVersion>& held) {
    held->announce_in(rejoins_);
    WEIGHTCAST_TRY(const auto reply, call([&](registry::Api&, const registry::PeerRef&) {
                       return put_and_publish(*held, held->channel());
                   }));
    WEIGHTCAST_CHECK(hold(held));
    return reply;
}

Result<void> Membership::hold(const std::shared_ptr<HeldVersion>& held) {
    held->announce_in(rejoins_);
    {
        // First, so that registering again in between tells of it too.
        const std::lock_guard lock(mutex_);
        holdings_.push_back(held);
    }
    auto told = call([&](registry::Api&, const registry::PeerRef&) { return tell(held); });
    if (told) return told;
    const std::lock_guard lock(mutex_);
    std::erase(holdings_, held);
    return told;
}

// Announces a holding; a registry that does not know the version is told of it first.
// REQUIRES: api_mutex_ is held
Result<void> Membership::tell(const std::shared_ptr<HeldVersion>& held) {
    auto told = api_->hold(lease_.peer, held->describe());
    if (told || told.error().code != Code::not_found) return told;
    WEIGHTCAST_CHECK(put_and_publish(*held, held->channel()));
    return api_->hold(lease_.peer, held->describe());
}

Result<bool> Membership::drop(const std::shared_ptr<HeldVersion>& held,
                              std::chrono::milliseconds readers_wait, bool unless_last) {
    const TimePoint deadline = system_clock().now() + readers_wait;
    if (readers_wait.count() == 0 && !unless_last) held->withdraw();
    Result<registry::DropReply> dropped = registry::DropReply{};
    for (;;) {
        dropped = call([&](registry::Api& api, const registry::PeerRef& peer) {
            return api.drop({peer, held->manifest().model, held->manifest().version, unless_last});
        });
        if (unless_last && !dropped) return dropped.error();
        {
            const std::lock_guard lock(mutex_);
            std::erase(holdings_, held);
        }
        const bool wait = dropped && dropped.value().readers > 0;
        if (!wait || system_clock().now() >= deadline) break;
        std::this_thread::sleep_for(kDropLook);
    }
    held->withdraw();
    // Another copy of the same version may still be offered here.
    for (const auto& other : holdings()) {
        if (other->named().name != held->named().name || other->withdrawn()) continue;
        static_cast<void>(
            call([&](registry::Api&, const registry::PeerRef&) { return tell(other); }));
    }
    if (!dropped) log(LogLevel::debug, "drop: {}", dropped.error().message);
    // A registry that forgot this peer forgot its readers, too.
    return dropped && dropped.value().readers == 0 && held->announced_in() == rejoins_;
}

// REQUIRES: api_mutex_ is held
bool Membership::rejoin() {
    const std::string cluster_before = lease_.cluster.cluster_id;
    auto lease = api_->register_peer(info_);
    if (!lease) {
        log(LogLevel::warning, "cannot register again: {}", lease.error().message);
        return false;
    }
    lease_ = std::move(lease).value();
    lease_ms_ = lease_.lease_ms;
    ++rejoins_;
    const bool other_cluster = lease_.cluster.cluster_id != cluster_before;
    if (other_cluster) {
        log(LogLevel::error,
            "the registry is another cluster now ({}, was {}): its store was lost or replaced; "
            "publishing again what this peer holds",
            lease_.cluster.cluster_id, cluster_before);
    } else {
        log(LogLevel::info, "registered again as peer {}", lease_.peer.id);
    }
    for (const auto& held : holdings()) {
        if (held->withdrawn()) continue;
        // A channel of the lost store comes back with the publisher, whoever registers first.
        if (other_cluster && !held->channel().empty()) {
            static_cast<void>(put_and_publish(*held, held->channel()));
        }
        if (const auto told = tell(held); !told) {
            log(LogLevel::warning, "cannot announce {}@{} again: {}", held->manifest().model,
                held->manifest().version, told.error().message);
        }
    }
    return true;
}

void Membership::announce_progress() {
    if (reachable_) heartbeat();
}

void Membership::post(Job job) {
    {
        const std::lock_guard lock(mutex_);
        jobs_.push_back(std::move(job));
    }
    wake_.notify_all();
}

void Membership::heartbeat() {
    registry::Heartbeat beat;
    for (const auto& held : holdings()) {
        if (!held->withdrawn()) beat.progress.push_back(held->progress());
    }
    const auto reply = call([&](registry::Api& api, const registry::PeerRef& peer) {
        beat.peer = peer;
        return api.heartbeat(beat);
    });
    const std::lock_guard lock(api_mutex_);
    if (reply) {
        if (!reachable_) log(LogLevel::info, "the registry answers again");
        lease_ms_ = reply.value().lease_ms;
    } else if (reachable_) {
        log(LogLevel::warning, "heartbeat: {}; trying on", reply.error().message);
    }
    reachable_ = reply.has_value();
}

// A version whose source changed under it is withdrawn and reported.
void Membership::check_sources() {
    for (const auto& held : holdings()) {
        const auto same = held->check_source();
        if (same) continue;
        if (!held->withdrawn()) {
            log(LogLevel::error, "{}@{} is no longer served: {}", held->manifest().model,
                held->manifest().version, same.error().message);
        }
        held->withdraw();
        const auto reported = call([&](registry::Api& api, const registry::PeerRef& peer) {
            return api.report({peer, peer.id, held->manifest().model, held->manifest().version,
                               registry::ReportKind::source_changed, same.error().message});
        });
        if (!reported) {
            log(LogLevel::warning, "report: {}", reported.error().message);
            continue;  // until the registry knows
        }
        const std::lock_guard lock(mutex_);
        std::erase(holdings_, held);
    }
}

// A third of the lease, jittered, so that a thousand peers do not beat as one.
TimePoint Membership::next_heartbeat() {
    const double part = 0.25 + 0.15 * random_.unit();
    return system_clock().now() +
           std::chrono::microseconds(static_cast<std::int64_t>(part * lease_ms_ * 1000));
}

void Membership::run() {
    std::unique_lock lock(mutex_);
    // Registering was a sign of life.
    TimePoint next = next_heartbeat();
    while (!stopping_ || (!jobs_.empty() && reachable_)) {
        const auto due = [&] { return stopping_ || !jobs_.empty(); };
        wake_.wait_until(lock, next, due);
        const bool beat_due = !stopping_ && system_clock().now() >= next;
        if (!jobs_.empty() && !beat_due) {
            const Job job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            job(*this);
            lock.lock();
            continue;
        }
        if (stopping_) break;
        if (!beat_due) continue;
        lock.unlock();
        check_sources();
        heartbeat();
        next = next_heartbeat();
        lock.lock();
    }
}

}  // namespace weightcast::agent
