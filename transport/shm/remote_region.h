// A region of a holder as its reader sees it, and the copy out of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
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

struct RemoteRegion {
    enum class State { wanted, asked, open, refused };

    Key key{};
    State state = State::wanted;
    TimePoint deadline{};  // of the answer
    fabric::ReadStatus refusal = fabric::ReadStatus::access_denied;
    OpenReply info;
    UniqueFd fd;
    std::vector<Job> waiting;  // for the answer

    bool is_valid(const HolderView& holder) const;
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
// Uses pread on shared memory rather than a mapping: a mapping costs a page fault for each page
// that it sees first, and each page is as a rule read once (measured per 1 GiB of 4 KiB pages:
// pread 9.8 GB/s, fresh mapping 6.5 with or without MADV_POPULATE_READ, mapping read before 12).
// A truncated file is then a short read too and not a SIGBUS.
CopyResult copy_some(const RemoteRegion& region, const HolderView& holder, Job& job,
                     std::uint64_t bytes_max);

// The region itself. Errors: unavailable (not of fixed size, or does not start with a page), io,
// no_space.
Result<Mapping> map_read_only(const RemoteRegion& region);

}  // namespace weightcast::transport::shm
