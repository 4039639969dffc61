#include "registry/event.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace weightcast::registry {

const char* to_string(EventKind kind) noexcept {
    switch (kind) {
        case EventKind::version_published:
            return "version_published";
        case EventKind::channel_moved:
            return "channel_moved";
        case EventKind::peer_joined:
            return "peer_joined";
        case EventKind::peer_left:
            return "peer_left";
        case EventKind::holder_quarantined:
            return "holder_quarantined";
    }
    return "unknown";
}

void EventRing::push(Event event) {
    event.sequence = ++last_;
    events_.push_back(std::move(event));
    if (events_.size() > capacity_) events_.pop_front();
}

bool EventRing::reaches(std::uint64_t sequence) const {
    return sequence <= last_ && last_ - sequence <= events_.size();
}

std::vector<Event> EventRing::after(std::uint64_t sequence, std::size_t count_max) const {
    WEIGHTCAST_ASSERT(reaches(sequence));
    const auto pending = static_cast<std::size_t>(last_ - sequence);
    const auto first = events_.end() - static_cast<std::ptrdiff_t>(pending);
    const auto count = static_cast<std::ptrdiff_t>(std::min(pending, count_max));
    return {first, first + count};
}

}  // namespace weightcast::registry
