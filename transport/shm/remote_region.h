// A region of a holder as its reader sees it, and the copy out of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/shm/prefault.h"
#include "transport/shm/wire.h"

namespace weightcast::transport::shm {

struct Job {
    fabric::Read read;
    std::byte* destination = nullptr;
    std::uint64_t done_bytes = 0;
};

// What the copies of one link need to know of its holder. Borrowed from the link.
struct HolderView {
    const ControlPage* control = nullptr;
    int process_id = 0;   // as seen from here; 0: in a process namespace that we cannot see
    int process_fd = -1;  // readable once the process is dead
};

// Thread-bound.
struct RemoteRegion {
    RemoteRegion() = default;
    ~RemoteRegion();
    RemoteRegion(const RemoteRegion&) = delete;
    RemoteRegion& operator=(const RemoteRegion&) = delete;

    // Maps the region, if that is possible and `job` is large enough to gain from it, and has the
    // pages of the job prefaulted. `helper` may be null, and outlives this.
    void prepare(const Job& job, Prefault* helper);

    enum class State { wanted, asked, open, refused };

    Key key{};
    State state = State::wanted;
    TimePoint deadline{};  // of the answer
    fabric::ReadStatus refusal = fabric::ReadStatus::access_denied;
    OpenReply info;
    UniqueFd fd;
    std::vector<Job> waiting;                // for the answer
    std::shared_ptr<const Mapping> mapping;  // of all its bytes; null: read through `fd`

    bool is_valid(const HolderView& holder) const;

  private:
    Prefault* helper_ = nullptr;
    std::vector<bool> prefaulted_;  // by window
};

enum class CopyResult {
    more,        // part of the job is done
    done,        // all of it
    denied,      // out of range, or revoked
    forbidden,   // the kernel does not let us read that process
    fault,       // the holder's file ends before, or its memory is not mapped
    holder_gone  // its process is dead
};

// Copies at most `bytes_max` of the job and checks before and after that the region is valid.
// A mapped region is copied past the caches; others are read with pread or process_vm_readv.
//
// Measured per GiB of 4 KiB pages that are each read once, in CPU time of the reader: one memcpy
// between warm memory 0.10 s, pread 0.17 s, which reads every destination line before it writes it,
// a fresh mapping 0.14 s, of which 0.07 s are its page faults, hence Prefault.
CopyResult copy_some(const RemoteRegion& region, const HolderView& holder, Job& job,
                     std::uint64_t bytes_max);

// The region itself. Errors: unavailable (not of fixed size, or does not start with a page), io,
// no_space.
Result<Mapping> map_read_only(const RemoteRegion& region);

}  // namespace weightcast::transport::shm
