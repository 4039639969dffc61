// What a reader makes of the registry's hints: whom to link, for how long to stay away, when to ask
// again. Shared by a pull session and the simulation of one. Pure.
#pragma once

#include <cstdint>
#include <optional>

#include "agent/scheduler.h"
#include "base/clock.h"
#include "base/random.h"
#include "registry/messages.h"

namespace weightcast::agent {

inline constexpr std::uint32_t kHoldersMax = 16;    // links at a time, and hints that are asked for
inline constexpr std::uint32_t kPlanWaitsMax = 16;  // times that the registry may ask for patience
inline constexpr auto kRenewFirst = std::chrono::milliseconds(100);     // at the start, and alone
inline constexpr auto kRatePeriodMin = std::chrono::milliseconds(100);  // to tell a rate

// True if one more holder is to be linked beside `live_holders`. `stripes`: of the plan, 0: none.
bool wants_link(const registry::HolderHint& hint, std::uint32_t stripes, std::uint32_t live_holders,
                std::uint32_t holders_max);

// What a plan of `stripes` stripes has the holder do; stripes beyond them do not count.
Role role_of(const registry::HolderHint& hint, std::uint32_t stripes);

// For how long a holder is left alone that has failed `failures` times before; jittered.
Duration penance_after(std::uint32_t failures, Random& random);

// The digest that a renewal tells, so that an unchanged plan is not sent again: 0, for all hints,
// unless every parent of the plan is linked. `is_linked` is asked with a peer's id.
template <typename IsLinked>
std::uint64_t known_digest(const registry::Grant& grant, const IsLinked& is_linked) {
    for (const registry::HolderHint& hint : grant.holders) {
        if (!hint.stripes.empty() && !is_linked(hint.peer.id)) return 0;
    }
    return grant.digest;
}

// What a reader tells of its rate.
class RateMeter {
  public:
    // Bytes/s since it last told one, `bytes` being all that it has got; 0: that was too short ago,
    // or brought less than `bytes_min`.
    double take(TimePoint now, std::uint64_t bytes, std::uint64_t bytes_min);

  private:
    TimePoint since_{};
    std::uint64_t bytes_ = 0;
};

// For how long the registry asks for patience before it gives hints; nothing if it gives them.
// Until then those hold that it gave before.
std::optional<Duration> wait_for_hints(const registry::Grant& grant);

// Time until the next renewal, without jitter, after one of `before`: what the registry asked for,
// else ever longer.
Duration renew_after(Duration before, std::uint32_t lease_ms, std::uint32_t renew_ms);

}  // namespace weightcast::agent
