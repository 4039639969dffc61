// Whom each of many readers asks for the manifest of a version. The manifest of a terabyte has 26
// MB, and a fleet that starts wants thousands of copies of it at once: more than the bytes that its
// source should be sending. So each holder hands out a few at a time, and whoever has got one is a
// holder. Pure, thread-bound.
#pragma once

#include <cstdint>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/clock.h"

namespace weightcast::registry {

class ManifestQueue {
  public:
    static constexpr std::uint32_t kReadersMax = 8;  // of a holder, at a time

    // The holder has the manifest, or has it no more; both are told as often as one likes.
    void add(std::uint64_t holder);
    void remove(std::uint64_t holder);

    // Nobody is known to have it.
    bool empty() const { return holders_.empty(); }

    struct Turn {
        std::uint64_t holder = 0;  // 0: nobody is free
        Duration wait{};           // then, until it is worth asking again
    };
    // Whom the reader asks. It keeps its turn until it is done.
    Turn take(std::uint64_t reader, TimePoint now);
    // It has the manifest now.
    void done(std::uint64_t reader, TimePoint now);
    // It has given up.
    void forget(std::uint64_t reader);

  private:
    struct Busy {
        std::uint32_t readers = 0;
        std::int64_t order = 0;  // the latest first: the first are the sources
        auto operator<=>(const Busy&) const = default;
    };
    struct Reading {
        std::uint64_t holder = 0;
        TimePoint since{};
    };

    void change(std::uint64_t holder, bool more);
    Duration wait_of(std::size_t waiting, TimePoint now) const;

    std::set<std::pair<Busy, std::uint64_t>> free_first_;
    std::unordered_map<std::uint64_t, Busy> holders_;
    std::unordered_map<std::uint64_t, Reading> readers_;
    std::set<std::pair<TimePoint, std::uint64_t>> turns_;  // of readers_, the oldest first
    std::set<std::uint64_t> waiting_;
    std::int64_t added_ = 0;
    Duration usual_ = std::chrono::milliseconds(10);  // time of a turn
};

}  // namespace weightcast::registry
