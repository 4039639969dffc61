// Weights in memory that follow a channel while they are used: a new version is pulled beside the
// one in use, verified, and becomes the current one by one atomic store.
//
//   auto weights = node->follow_memory({.pull = {.model = "llama3"}});
//   weights.value()->wait_for(1, 60s);
//   for (;;) { const Snapshot snapshot = weights.value()->acquire(); infer(snapshot.tensors()); }
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "weightcast/node.h"
#include "weightcast/result.h"

namespace weightcast {

namespace agent {
struct WeightSlot;
}

// A version that stays as it is while this object lives. Holds up the version after the next one.
class Snapshot {
  public:
    Snapshot() = default;  // of no version
    Snapshot(Snapshot&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
    Snapshot& operator=(Snapshot&& other) noexcept {
        std::swap(slot_, other.slot_);
        return *this;
    }
    Snapshot(const Snapshot&) = delete;
    Snapshot& operator=(const Snapshot&) = delete;
    ~Snapshot();

    // False if there is no version: none came yet, or one is being written in place. Then there is
    // nothing else to ask.
    explicit operator bool() const { return slot_ != nullptr; }
    std::uint64_t version() const;
    std::uint64_t generation() const;
    std::span<const TensorView> tensors() const;            // by name
    const TensorView* tensor(std::string_view name) const;  // nullptr: there is none

  private:
    friend class WeightSet;
    explicit Snapshot(agent::WeightSlot* slot) : slot_(slot) {}

    agent::WeightSlot* slot_ = nullptr;
};

// A flip, as the hooks see it.
struct Flip {
    std::uint64_t version = 0;
    std::uint64_t generation = 0;
    PullReport report;  // of the pull; empty in the in-place mode before it
};

// The last whole copy of a version that a channel names is not overwritten: the next version is put
// off, and that is told as trouble, until another peer has it or no channel names it any more.
struct WeightSetOptions {
    PullOptions pull;  // model; reference: "" or ":CHANNEL"; tensors, expected, fabrics, ...
    // One copy in memory instead of two: readers get no snapshot from before_flip to after_flip,
    // which then stand around the whole pull. If a pull fails the weights are of no version, and
    // readers get none, until one succeeds.
    bool in_place = false;
    // Called by the thread that follows, so that an engine can flip at a step boundary: the flip
    // waits until it returns. An error puts the flip off; it is tried again. If the channel moves
    // on meanwhile there is no flip, and a call for the next one.
    std::function<Result<void>(const Flip&)> before_flip;
    std::function<void(const Flip&)> after_flip;
    // A version that cannot be had for now. The one before stays current, if it is not in place.
    std::function<void(const Error&)> on_trouble;
};

// Thread-safe. Destroy it, and all its snapshots, before its node.
class WeightSet {
  public:
    // Stops following. REQUIRES: no snapshot is left
    virtual ~WeightSet() = default;
    // The current version. Never blocks, no lock, no allocation.
    Snapshot acquire() const { return Snapshot(acquire_slot()); }
    // Waits until the current version is of this generation or a later one. False: it took longer.
    virtual bool wait_for(std::uint64_t generation, std::chrono::milliseconds wait) const = 0;

  private:
    virtual agent::WeightSlot* acquire_slot() const = 0;
};

}  // namespace weightcast
