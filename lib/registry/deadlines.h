// When each of many is due, and who is overdue. Pure, thread-bound.
#pragma once

#include <cstdint>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/clock.h"

namespace weightcast::registry {

class Deadlines {
  public:
    // A new deadline in the place of an earlier one.
    void set(std::uint64_t id, TimePoint due) {
        forget(id);
        due_[id] = due;
        order_.emplace(due, id);
    }
    void forget(std::uint64_t id) {
        const auto found = due_.find(id);
        if (found == due_.end()) return;
        order_.erase({found->second, id});
        due_.erase(found);
    }
    // One whose deadline has passed, which is forgotten; 0: none.
    std::uint64_t take_overdue(TimePoint now) {
        if (order_.empty() || order_.begin()->first >= now) return 0;
        const std::uint64_t id = order_.begin()->second;
        forget(id);
        return id;
    }

  private:
    std::unordered_map<std::uint64_t, TimePoint> due_;
    std::set<std::pair<TimePoint, std::uint64_t>> order_;
};

}  // namespace weightcast::registry
