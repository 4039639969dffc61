// The holders of a pull: who is linked, who failed and when it may be tried again, fresh hints.
#include <fmt/core.h>

#include <algorithm>
#include <string_view>

#include "agent/pull_session.h"
#include "base/log.h"
#include "plan/forest.h"

namespace weightcast::agent {
namespace {

constexpr auto kLinkCheckInterval = std::chrono::milliseconds(10);

// Extents that are sorted, disjoint, inside the version, and of regions that all have keys.
bool sound(const registry::Holding& holding, const registry::FabricKeys& keys,
           const model::Layout& layout) {
    std::uint64_t end = 0;
    for (const registry::Extent& extent : holding.extents) {
        const bool fits = extent.place >= end && extent.bytes <= layout.space_bytes() &&
                          extent.place <= layout.space_bytes() - extent.bytes &&
                          extent.offset <= UINT64_MAX - extent.bytes &&
                          extent.region < keys.regions.size() && extent.bytes > 0;
        if (!fits) return false;
        end = extent.place + extent.bytes;
    }
    return holding.page_bytes == page_bytes(layout.chunk_count());
}

// This reader's part of what the holder gives to all of them; 0: no cap.
std::uint64_t rate_share(const registry::HolderHint& hint) {
    if (hint.serve_rate_max == 0) return 0;
    return std::max<std::uint64_t>(1, hint.serve_rate_max / std::max(1U, hint.readers));
}

}  // namespace

// The first of our transports, in order of preference, that both sides have.
std::int64_t PullSession::choose_fabric(const registry::HolderHint& hint) const {
    const auto penance = penance_.find(hint.peer.id);
    const auto& fabrics = parts_.io.fabrics();
    std::int64_t fallback = -1;
    for (std::size_t i = 0; i < fabrics.size(); ++i) {
        const std::string name = fabrics[i]->name();
        const auto& only = options_.fabrics;
        if (!only.empty() && std::find(only.begin(), only.end(), name) == only.end()) continue;
        const auto address = hint.addresses.find(name);
        if (address == hint.addresses.end() || !fabrics[i]->can_reach(address->second)) continue;
        const auto keys = hint.holding.keys.find(name);
        if (keys == hint.holding.keys.end()) continue;
        if (!sound(hint.holding, keys->second, manifest_.layout)) continue;
        if (fallback < 0) fallback = static_cast<std::int64_t>(i);
        if (penance != penance_.end()) {
            const auto& failed = penance->second.fabrics;
            if (std::find(failed.begin(), failed.end(), i) != failed.end()) continue;
        }
        return static_cast<std::int64_t>(i);
    }
    return fallback;
}

HolderTraits PullSession::traits_of(const registry::HolderHint& hint, std::size_t fabric) const {
    const model::Layout& layout = manifest_.layout;
    HolderTraits traits;
    traits.can_wait = parts_.io.fabrics()[fabric]->can_wait();
    traits.distance = parts_.io.fabrics()[fabric]->emulated() ? 1 : 0;
    traits.rate_max = rate_share(hint);
    // Chunks all of whose bytes lie in the extents.
    traits.covered.resize((layout.chunk_count() + 63) / 64);
    const auto& extents = hint.holding.extents;
    bool all = true;
    std::size_t at = 0;
    for (std::uint32_t chunk = 0; chunk < layout.chunk_count(); ++chunk) {
        std::uint64_t place = std::uint64_t{chunk} << layout.options().chunk_shift;
        const std::uint64_t end = place + layout.chunk_range(chunk).bytes;
        while (at < extents.size() && extents[at].place + extents[at].bytes <= place) ++at;
        for (std::size_t i = at; i < extents.size() && extents[i].place <= place && place < end;
             ++i) {
            place = extents[i].place + extents[i].bytes;
        }
        all = all && place >= end;
        if (place >= end) traits.covered[chunk / 64] |= std::uint64_t{1} << (chunk % 64);
    }
    if (all) traits.covered.clear();
    return traits;
}

void PullSession::use_grant() {
    for (const registry::HolderHint& hint : grant_.holders) add_hint(hint);
    apply_plan();
}

void PullSession::add_hint(const registry::HolderHint& hint) {
    for (HolderIndex index = 0; index < holders_.size(); ++index) {
        Holder& holder = holders_[index];
        if (!holder.connected || holder.hint.peer.id != hint.peer.id) continue;
        holder.hint.turn = hint.turn;
        // Readers come and go, and share the holder's cap.
        scheduler_.set_rate_max(index, rate_share(hint));
        statistics_.shares[holder.share].rate_max = static_cast<double>(rate_share(hint));
        return;
    }
    if (!wants_link(hint, grant_.stripes, scheduler_.live_holders(), options_.holders_max)) return;
    const auto penance = penance_.find(hint.peer.id);
    if (penance != penance_.end() && system_clock().now() < penance->second.until) return;
    const std::int64_t chosen = choose_fabric(hint);
    if (chosen < 0) {
        last_trouble_ = fmt::format("no transport reaches {}", hint.name);
        return;
    }
    const auto index = static_cast<std::size_t>(chosen);
    fabric::Fabric& fabric = *parts_.io.fabrics()[index];
    Holder holder;
    holder.hint = hint;
    holder.fabric = index;
    const auto attempt = [&]() -> Result<void> {
        WEIGHTCAST_TRY(holder.page,
                       SharedMemory::create("weightcast-remote-page", hint.holding.page_bytes));
        const auto local = fabric::Access::local;
        const fabric::Memory page{holder.page.pages.span(), holder.page.fd.get(), 0, false};
        WEIGHTCAST_TRY(holder.page_region, fabric.register_memory(page, local));
        if (!buffer_regions_[index]) {
            const fabric::Memory memory{buffers_.pages.span(), buffers_.fd.get(), 0, false};
            WEIGHTCAST_TRY(buffer_regions_[index], fabric.register_memory(memory, local));
        }
        auto& places = place_regions_[index];
        while (in_place_ && places.size() < places_.size()) {
            WEIGHTCAST_TRY(auto region,
                           fabric.register_memory(places_[places.size()].memory, local));
            places.push_back(std::move(region));
        }
        return success();
    };
    if (const auto ready = attempt(); !ready) return fail(ready.error());
    const fabric::PeerAddress peer{hint.addresses.at(fabric.name()), hint.incarnation};
    holder.link = fabric.connect(peer);
    // Over TCP a page would queue behind chunks; a connection of its own keeps it fresh.
    const bool apart = fabric.emulated() && !hint.holding.complete;
    holder.page_link = apart ? fabric.connect(peer) : holder.link;
    holder.connected = true;
    HolderTraits traits = traits_of(hint, index);
    traits.page_apart = apart;
    holder.share = statistics_.shares.size();
    statistics_.shares.push_back({hint.name, fabric.name(), fabric.emulated(), 0,
                                  static_cast<double>(traits.rate_max), peer.address,
                                  static_cast<double>(fabric.port_rate())});
    log(LogLevel::info, "reading from {} over {}{} at {}", hint.name, fabric.name(),
        fabric.emulated() ? " (emulated)" : "", peer.address);
    const HolderIndex added = scheduler_.add_holder(traits, system_clock().now());
    holders_.push_back(std::move(holder));
    if (added + 1 != holders_.size()) fail({Code::io, 0, "holder tables differ"});
}

// Hands out the roles of a plan. Whoever has none any more stays linked, for when a parent fails.
void PullSession::apply_plan() {
    const TimePoint now = system_clock().now();
    const std::uint32_t stripes = grant_.stripes <= plan::kStripesMax ? grant_.stripes : 0;
    scheduler_.set_plan(stripes, now);
    if (stripes == 0) return;
    for (const registry::HolderHint& hint : grant_.holders) {
        const Role role = role_of(hint, stripes);
        if (role.stripes == 0 && !role.ancestor) continue;
        for (HolderIndex index = 0; index < holders_.size(); ++index) {
            const Holder& holder = holders_[index];
            if (!holder.connected || holder.hint.peer.id != hint.peer.id) continue;
            scheduler_.set_role(index, role, now);
            log(LogLevel::debug, "plan: {} for stripes {:x}", hint.name, role.stripes);
        }
    }
}

void PullSession::disconnect(Holder& holder) {
    if (!holder.connected) return;
    fabric::Fabric& fabric = *parts_.io.fabrics()[holder.fabric];
    fabric.disconnect(holder.link);
    if (holder.page_link != holder.link) fabric.disconnect(holder.page_link);
    holder.connected = false;
}

void PullSession::lose_holder(HolderIndex index, const std::string& why) {
    Holder& holder = holders_[index];
    if (!holder.connected) return;
    scheduler_.remove_holder(index);
    disconnect(holder);
    last_trouble_ = fmt::format("{}: {}", holder.hint.name, why);
    log(LogLevel::info, "leaving holder {}", last_trouble_);
    Penance& penance = penance_[holder.hint.peer.id];
    if (penance.failures == 0) ++statistics_.holders_lost;
    penance.fabrics.push_back(holder.fabric);
    penance.until = system_clock().now() + penance_after(penance.failures++, random_);
    report(holder, registry::ReportKind::unreachable, why);
    next_renew_ = system_clock().now();
}

// A link may fail while nothing is read over it, and would be found out by the next read only.
void PullSession::lose_failed_links(TimePoint now) {
    if (now < next_link_check_) return;
    next_link_check_ = now + kLinkCheckInterval;
    for (HolderIndex index = 0; index < holders_.size(); ++index) {
        const Holder& holder = holders_[index];
        if (!holder.connected) continue;
        const fabric::Fabric& fabric = *parts_.io.fabrics()[holder.fabric];
        const std::string why = fabric.link_error(holder.link);
        if (!why.empty()) lose_holder(index, why);
    }
}

void PullSession::quarantine(HolderIndex index) {
    Holder& holder = holders_[index];
    log(LogLevel::warning, "holder {} is quarantined: {}", holder.hint.name, last_trouble_);
    penance_[holder.hint.peer.id].until = TimePoint::max();
    disconnect(holder);
    ++statistics_.holders_lost;
    next_renew_ = system_clock().now();
}

void PullSession::report(const Holder& holder, registry::ReportKind kind,
                         const std::string& detail) {
    registry::HolderReport report{
        {}, holder.hint.peer.id, manifest_.model, manifest_.version, kind, detail};
    parts_.membership.post([report](Membership& membership) mutable {
        static_cast<void>(membership.call([&](registry::Api& api, const registry::PeerRef& peer) {
            report.reporter = peer;
            return api.report(report);
        }));
    });
}

bool PullSession::is_linked(std::uint64_t peer) const {
    return std::any_of(holders_.begin(), holders_.end(), [peer](const Holder& holder) {
        return holder.connected && holder.hint.peer.id == peer;
    });
}

// Asks for fresh hints: soon after the start and after a loss, ever less often while all goes well.
void PullSession::renew(TimePoint now) {
    renew_interval_ = renew_after(renew_interval_, parts_.membership.lease_ms(), grant_.renew_ms);
    const bool alone = scheduler_.live_holders() == 0;
    if (alone) renew_interval_ = std::chrono::milliseconds(options_.renew_ms_min);
    const double jitter = 0.75 + 0.5 * random_.unit();
    next_renew_ = now + std::chrono::duration_cast<Duration>(renew_interval_ * jitter);
    if (renewing_) return;
    renewing_ = true;
    registry::RenewRequest request{{}, grant_.pull, {}, options_.holders_max};
    request.rate = rate_.take(now, bytes_verified_, 0);
    request.known = known_digest(grant_, [this](std::uint64_t peer) { return is_linked(peer); });
    for (const auto& [peer, penance] : penance_) {
        if (penance.until > now) request.avoid.push_back(peer);
    }
    const registry::PullRequest again{
        {}, manifest_.model, fmt::format("@{}", manifest_.version), options_.holders_max};
    parts_.membership.post([self = shared_from_this(), request, again](Membership& membership) {
        using registry::Api;
        using registry::PeerRef;
        auto grant = membership.call([&](Api& api, const PeerRef& peer) {
            registry::RenewRequest mine = request;
            mine.peer = peer;
            return api.renew_pull(mine);
        });
        if (!grant &&
            (grant.error().code == Code::stale || grant.error().code == Code::not_found)) {
            grant = membership.call([&](Api& api, const PeerRef& peer) {
                registry::PullRequest mine = again;
                mine.peer = peer;
                return api.open_pull(mine);
            });
        }
        self->parts_.io.post([self, grant] { self->on_grant(grant); });
    });
}

// A read lease that came after the end.
void PullSession::close_late(std::uint64_t pull) {
    parts_.membership.post([pull](Membership& membership) {
        static_cast<void>(membership.call([&](registry::Api& api, const registry::PeerRef& peer) {
            return api.close_pull({peer, pull});
        }));
    });
}

void PullSession::on_grant(Result<registry::Grant> grant) {
    renewing_ = false;
    if (finished_ || failed_) {
        if (grant && grant.value().pull != grant_.pull) close_late(grant.value().pull);
        return;
    }
    if (!grant) {
        log(LogLevel::info, "no fresh hints: {}", grant.error().message);
        return;
    }
    registry::Grant& fresh = grant.value();
    if (fresh.unchanged) {
        grant_.renew_ms = fresh.renew_ms;
        return;
    }
    if (fresh.version.root != grant_.version.root) {
        return fail({Code::conflict, 0,
                     fmt::format("{}@{} has another digest at the registry now", manifest_.model,
                                 manifest_.version)});
    }
    if (const auto wait = wait_for_hints(fresh)) {
        grant_.pull = fresh.pull;
        next_renew_ = std::min(next_renew_, system_clock().now() + *wait);
        return;
    }
    grant_ = std::move(fresh);
    use_grant();
}

// Gives up when nothing came for long and what is missing is with nobody.
void PullSession::check_starving(TimePoint now) {
    const auto patience = std::chrono::milliseconds(options_.no_holder_ms_max);
    if (scheduler_.finished() || now - last_progress_ < patience) {
        if (scheduler_.live_holders() == 0) next_renew_ = std::min(next_renew_, now + patience);
        return;
    }
    if (scheduler_.live_holders() > 0 && !scheduler_.starving()) return;
    fail({Code::unavailable, 0,
          fmt::format("no holder of {}@{} could be read for {} ms ({} chunks are verified and kept)"
                      "; last trouble: {}",
                      manifest_.model, manifest_.version, options_.no_holder_ms_max,
                      scheduler_.verified_count(),
                      last_trouble_.empty() ? "none is registered" : last_trouble_)});
}

}  // namespace weightcast::agent
