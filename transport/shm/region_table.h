// The regions that a holder exports, and the page that tells its readers which of them are valid.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/mapping.h"
#include "fabric/fabric.h"
#include "transport/shm/wire.h"

namespace weightcast::transport::shm {

// Thread-safe.
class RegionTable {
  public:
    // Shared by the fabric and by its regions, because a Region may outlive its fabric.
    // Errors: io, no_space.
    static Result<std::shared_ptr<RegionTable>> create();

    // Errors: invalid_input (a descriptor that does not hold the memory), no_space, io.
    Result<Key> add(const fabric::Memory& memory);
    // Once this has returned a reader that finishes a copy sees that it was revoked.
    void remove(const Key& key);

    // The answer for a key, and a duplicate of the descriptor that goes with it, if any.
    OpenReply find(const Key& key, UniqueFd& fd) const;

    int control_fd() const { return control_fd_.get(); }

  private:
    struct Entry {
        OpenReply reply;
        UniqueFd fd;
    };

    SharedMemory control_;
    UniqueFd control_fd_;  // read-only
    ControlPage* page_ = nullptr;
    mutable std::mutex mutex_;
    std::map<Key, Entry> entries_;
    std::vector<std::uint32_t> free_slots_;
    std::uint32_t slots_used_ = 0;
    std::uint64_t generation_ = 0;
};

}  // namespace weightcast::transport::shm
