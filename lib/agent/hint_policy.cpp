#include "agent/hint_policy.h"

#include <algorithm>

namespace weightcast::agent {
namespace {

constexpr auto kPenanceFirst = std::chrono::milliseconds(500);
constexpr std::uint32_t kPenanceDoublings = 6;
constexpr std::uint32_t kSparesMax = 4;  // holders that a plan gives no role

}  // namespace

bool wants_link(const registry::HolderHint& hint, std::uint32_t stripes, std::uint32_t live_holders,
                std::uint32_t holders_max) {
    // A complete holder is worth more than the limit: the partial ones may lack the same chunks.
    const std::uint32_t limit = holders_max * (hint.holding.complete ? 2 : 1);
    if (live_holders >= limit && hint.stripes.empty()) return false;
    // With a plan, some that could help are enough.
    const bool spare = stripes != 0 && hint.stripes.empty() && !hint.ancestor;
    return !spare || live_holders < stripes + kSparesMax;
}

Role role_of(const registry::HolderHint& hint, std::uint32_t stripes) {
    Role role;
    role.ancestor = hint.ancestor;
    for (const std::uint32_t stripe : hint.stripes) {
        if (stripe < stripes) role.stripes |= std::uint64_t{1} << stripe;
    }
    return role;
}

Duration penance_after(std::uint32_t failures, Random& random) {
    const double jitter = 0.5 + random.unit();
    return std::chrono::duration_cast<Duration>(kPenanceFirst * jitter) *
           (std::int64_t{1} << std::min(failures, kPenanceDoublings));
}

double RateMeter::take(TimePoint now, std::uint64_t bytes, std::uint64_t bytes_min) {
    const bool first = since_ == TimePoint{};
    const Duration period = now - since_;
    const std::uint64_t got = bytes - bytes_;
    if (!first && (period < kRatePeriodMin || got < bytes_min)) return 0;
    since_ = now;
    bytes_ = bytes;
    return first ? 0 : static_cast<double>(got) / seconds(period);
}

std::optional<Duration> wait_for_hints(const registry::Grant& grant) {
    const std::uint32_t ms = std::max(grant.plan_ms, grant.manifest_ms);
    if (ms == 0 || !grant.holders.empty()) return std::nullopt;
    return std::chrono::milliseconds(ms);
}

Duration renew_after(Duration before, std::uint32_t lease_ms, std::uint32_t renew_ms) {
    const Duration longest = std::chrono::milliseconds(lease_ms) / 4;
    const Duration wanted = renew_ms == 0 ? before * 3 / 2 : std::chrono::milliseconds(renew_ms);
    return std::min(wanted, longest);
}

}  // namespace weightcast::agent
