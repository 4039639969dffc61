// Drives one fabric in a test: submits reads, waits for completions, checks bytes.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "fabric/fabric.h"

namespace weightcast::contract {

// What a read waits for: a bit of a region; nothing if the key is empty.
struct Gate {
    fabric::RegionKey key;
    std::uint64_t bit = 0;
};

class Session {
  public:
    // Borrows the fabric and registers `bytes` of local memory.
    Session(fabric::Fabric& fabric, std::size_t bytes);

    struct Piece {
        std::uint64_t remote_offset = 0;
        std::uint64_t local_offset = 0;
        std::uint64_t bytes = 0;
    };

    // Submits a read and returns its tag; tags count up.
    fabric::ReadTag read(fabric::LinkId link, const fabric::RegionKey& key, Piece piece,
                         const Gate& gate = {});
    // Polls until nothing is outstanding. Fails the test if a completion is unknown or comes
    // twice, or if a generous number of waits does not suffice.
    void finish();
    // As finish(), until `count` reads in all have completed.
    void finish_some(std::size_t count);
    // Polls once, without waiting.
    void poll_once();
    // Polls until so much of the fabric's time is over, whatever completes.
    void go_on_for(std::uint32_t ms);
    // Reads once and waits for it.
    fabric::ReadStatus read_now(fabric::LinkId link, const fabric::RegionKey& key, Piece piece);

    std::size_t outstanding() const { return keys_.size(); }
    bool has_completed(fabric::ReadTag tag) const { return statuses_.contains(tag.value); }
    std::size_t completed() const { return statuses_.size(); }
    fabric::ReadStatus status(fabric::ReadTag tag) const { return statuses_.at(tag.value); }
    std::span<std::byte> local() { return memory_; }
    std::span<std::byte> local(Piece piece) {
        return local().subspan(static_cast<std::size_t>(piece.local_offset),
                               static_cast<std::size_t>(piece.bytes));
    }

  private:
    fabric::Fabric& fabric_;
    std::vector<std::byte> memory_;
    std::unique_ptr<fabric::Region> region_;
    std::uint64_t next_tag_ = 1;
    struct Keys {
        fabric::RegionKey region;
        fabric::RegionKey gate;
    };
    std::map<std::uint64_t, Keys> keys_;  // of outstanding reads, which borrow them
    std::map<std::uint64_t, fabric::ReadStatus> statuses_;
};

}  // namespace weightcast::contract
