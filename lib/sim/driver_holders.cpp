// Whom a receiver reads from: agent/pull_holders.cpp, step by step.
#include <algorithm>
#include <utility>

#include "sim/driver.h"

namespace weightcast::sim {

bool Driver::is_linked(std::uint64_t peer) const {
    return std::any_of(holders_.begin(), holders_.end(), [peer](const Holder& holder) {
        return holder.connected && holder.peer == peer;
    });
}

void Driver::add_hint(const registry::HolderHint& hint) {
    if (is_linked(hint.peer.id)) return;
    const std::uint32_t live = scheduler_->live_holders();
    if (!agent::wants_link(hint, grant_.stripes, live, agent::kHoldersMax)) return;
    const auto penance = penance_.find(hint.peer.id);
    if (penance != penance_.end() && events_.now_ns() < penance->second.until_ns) return;
    agent::HolderTraits traits;
    traits.can_wait = options_.can_wait;
    const agent::HolderIndex index = scheduler_->add_holder(traits, now());
    const LinkId link = network_.open(rank_, desk_.rank_of(hint.peer.id), index);
    holders_.push_back({hint.peer.id, link, true});
}

void Driver::apply_plan() {
    scheduler_->set_plan(grant_.stripes, now());
    if (grant_.stripes == 0) return;
    for (const registry::HolderHint& hint : grant_.holders) {
        const agent::Role role = agent::role_of(hint, grant_.stripes);
        if (role.stripes == 0 && !role.ancestor) continue;
        for (agent::HolderIndex index = 0; index < holders_.size(); ++index) {
            const Holder& holder = holders_[index];
            if (!holder.connected || holder.peer != hint.peer.id) continue;
            scheduler_->set_role(index, role, now());
            network_.set_turn(holder.link, hint.turn);
        }
    }
}

void Driver::lose_holder(agent::HolderIndex index) {
    Holder& holder = holders_[index];
    if (!holder.connected) return;
    scheduler_->remove_holder(index);
    network_.close(holder.link);
    holder.connected = false;
    Penance& penance = penance_[holder.peer];
    penance.until_ns = events_.now_ns() + agent::penance_after(penance.failures++, random_).count();
    desk_.ask(rank_,
              [peer = holder.peer](registry::Api& api, const registry::PeerRef& self) {
                  static_cast<void>(api.report({self, peer, kModel, kVersion,
                                                registry::ReportKind::unreachable, "it is gone"}));
              },
              {});
    next_renew_ns_ = events_.now_ns();
}

void Driver::renew() {
    renew_interval_ = agent::renew_after(renew_interval_, options_.lease_ms, grant_.renew_ms);
    if (scheduler_->live_holders() == 0) renew_interval_ = agent::kRenewFirst;
    const double jitter = 0.75 + 0.5 * random_.unit();
    next_renew_ns_ =
        events_.now_ns() + std::chrono::duration_cast<Duration>(renew_interval_ * jitter).count();
    if (renewing_) return;
    renewing_ = true;
    registry::RenewRequest request{{}, grant_.pull, {}, agent::kHoldersMax};
    request.known =
        agent::known_digest(grant_, [this](std::uint64_t peer) { return is_linked(peer); });
    request.rate = rate_.take(now(), network_.bytes_held(rank_),
                              options_.rate_chunks_min * network_.chunk_bytes());
    for (const auto& [peer, penance] : penance_) {
        if (penance.until_ns > events_.now_ns()) request.avoid.push_back(peer);
    }
    desk_.ask(
        rank_,
        [this, request](registry::Api& api, const registry::PeerRef& peer) mutable {
            request.peer = peer;
            answer_ = api.renew_pull(request);
        },
        [this] { on_grant(); });
}

void Driver::on_grant() {
    renewing_ = false;
    if (!reading_ || !*answer_) return;
    if (answer_->value().unchanged) {
        grant_.renew_ms = answer_->value().renew_ms;
    } else if (const auto wait = agent::wait_for_hints(answer_->value())) {
        grant_.pull = answer_->value().pull;
        next_renew_ns_ = std::min(next_renew_ns_, events_.now_ns() + wait->count());
    } else {
        grant_ = std::move(*answer_).value();
        for (const registry::HolderHint& hint : grant_.holders) add_hint(hint);
        apply_plan();
    }
    step();
}

}  // namespace weightcast::sim
