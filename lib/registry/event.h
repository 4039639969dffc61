// What subscribers of the registry get to know, and the bounded memory that lets them resume.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "registry/messages.h"

namespace weightcast::registry {

// A stream of events without any says so often that it lives.
inline constexpr std::chrono::seconds kEventsKeepAlive{15};

enum class EventKind : std::uint8_t {
    version_published,
    channel_moved,
    peer_joined,
    peer_left,
    holder_quarantined,
};

const char* to_string(EventKind kind) noexcept;

// Fields that do not belong to the kind are empty.
struct Event {
    EventKind kind = EventKind::peer_joined;
    std::uint64_t sequence = 0;  // without a gap; set by EventRing
    std::string model;
    std::uint64_t version = 0;
    std::string channel;
    std::uint64_t generation = 0;
    std::uint64_t wall_ms = 0;     // when the channel moved
    std::optional<Canary> canary;  // of the channel
    std::uint64_t peer = 0;
    std::string name;    // of the peer
    std::string detail;  // why, for people
};

// The last `capacity` events. Thread-bound.
class EventRing {
  public:
    // Numbers from `last` + 1 on. A random `last` keeps the numbers of an earlier boot unknown.
    EventRing(std::size_t capacity, std::uint64_t last) : capacity_(capacity), last_(last) {}

    // Numbers the event and forgets the oldest one if there is no room.
    void push(Event event);
    std::uint64_t last() const { return last_; }
    // Whether all events after `sequence` are still here. False for a sequence that never was.
    bool reaches(std::uint64_t sequence) const;
    // At most `count_max` events after `sequence`, in order. REQUIRES: reaches(sequence)
    std::vector<Event> after(std::uint64_t sequence, std::size_t count_max) const;

  private:
    std::size_t capacity_;
    std::uint64_t last_;
    std::deque<Event> events_;
};

}  // namespace weightcast::registry
