#include "registry/manifest_queue.h"

#include <algorithm>

namespace weightcast::registry {
namespace {

constexpr Duration kWaitMin = std::chrono::milliseconds(3);
constexpr Duration kWaitMax = std::chrono::milliseconds(500);

}  // namespace

void ManifestQueue::add(std::uint64_t holder) {
    const auto [at, added] = holders_.try_emplace(holder, Busy{0, -added_});
    if (!added) return;
    ++added_;
    free_first_.emplace(at->second, holder);
}

void ManifestQueue::remove(std::uint64_t holder) {
    const auto at = holders_.find(holder);
    if (at == holders_.end()) return;
    free_first_.erase({at->second, holder});
    holders_.erase(at);
}

void ManifestQueue::change(std::uint64_t holder, bool more) {
    const auto at = holders_.find(holder);
    if (at == holders_.end()) return;
    free_first_.erase({at->second, holder});
    if (more) {
        ++at->second.readers;
    } else if (at->second.readers > 0) {  // Of one that went and came back, not all are known.
        --at->second.readers;
    }
    free_first_.emplace(at->second, holder);
}

ManifestQueue::Turn ManifestQueue::take(std::uint64_t reader, TimePoint now) {
    if (const auto has = readers_.find(reader); has != readers_.end()) {
        if (holders_.contains(has->second.holder)) return {has->second.holder, {}};
        forget(reader);
    }
    if (free_first_.empty() || free_first_.begin()->first.readers >= kReadersMax) {
        const bool is_new = waiting_.insert(reader).second;
        return {0, wait_of(is_new ? waiting_.size() : 1, now)};
    }
    waiting_.erase(reader);
    const std::uint64_t holder = free_first_.begin()->second;
    change(holder, true);
    readers_[reader] = {holder, now};
    turns_.emplace(now, reader);
    return {holder, {}};
}

void ManifestQueue::done(std::uint64_t reader, TimePoint now) {
    const auto has = readers_.find(reader);
    if (has != readers_.end()) usual_ = (usual_ * 7 + (now - has->second.since)) / 8;
    forget(reader);
}

void ManifestQueue::forget(std::uint64_t reader) {
    waiting_.erase(reader);
    const auto has = readers_.find(reader);
    if (has == readers_.end()) return;
    change(has->second.holder, false);
    turns_.erase({has->second.since, reader});
    readers_.erase(has);
}

// With each turn, all that read become holders: so many turns until that many have been served. A
// turn takes at least as long as the oldest one takes already: so who waits asks ever less often.
Duration ManifestQueue::wait_of(std::size_t waiting, TimePoint now) const {
    std::int64_t turns = 1;
    for (std::size_t served = holders_.size() * kReadersMax; served < waiting && served > 0;
         served *= kReadersMax + 1) {
        ++turns;
    }
    const Duration oldest = turns_.empty() ? Duration::zero() : now - turns_.begin()->first;
    return std::clamp(std::max(usual_, oldest) * turns, kWaitMin, kWaitMax);
}

}  // namespace weightcast::registry
