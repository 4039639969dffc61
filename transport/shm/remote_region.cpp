#include "transport/shm/remote_region.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "transport/shm/copy.h"

namespace weightcast::transport::shm {
namespace {

// A smaller read does not pay for a mapping, and a process may have some 65,000 mappings only.
constexpr std::uint64_t kMappedReadBytesMin = 64U << 10U;
constexpr std::uint64_t kMappedRegionBytesMin = 4U << 20U;
constexpr std::uint64_t kWindowBytes = 1U << 20U;  // prefaulted in one piece

bool is_dead(const HolderView& holder) {
    ::pollfd process{holder.process_fd, POLLIN, 0};
    return ::poll(&process, 1, 0) != 0;
}

// Bytes copied, or a negative errno.
ssize_t copy_bytes(const RemoteRegion& region, const HolderView& holder, std::uint64_t offset,
                   std::byte* to, std::size_t bytes) {
    if (region.mapping) {
        copy_past_cache(to, region.mapping->data() + offset, bytes);
        return static_cast<ssize_t>(bytes);
    }
    const std::uint64_t from = region.info.start + offset;
    ssize_t got = 0;
    if (region.info.kind == RegionKind::by_process) {
        const ::iovec local{to, bytes};
        // An address of the other process, which only the kernel follows.
        // NOLINTNEXTLINE(performance-no-int-to-ptr)
        const ::iovec remote{reinterpret_cast<void*>(static_cast<std::uintptr_t>(from)), bytes};
        got = ::process_vm_readv(holder.process_id, &local, 1, &remote, 1, 0);
    } else {
        got = ::pread(region.fd.get(), to, bytes, static_cast<::off_t>(from));
    }
    return got < 0 ? -errno : got;
}

CopyResult failure(ssize_t result) {
    switch (-result) {
        case EINTR:
            return CopyResult::more;
        case EPERM:
        case EACCES:
        case ENOSYS:
            return CopyResult::forbidden;
        case ESRCH:
            return CopyResult::holder_gone;
        default:
            return CopyResult::fault;
    }
}

}  // namespace

RemoteRegion::~RemoteRegion() {
    if (mapping && helper_ != nullptr) helper_->release(std::move(mapping));
}

void RemoteRegion::prepare(const Job& job, Prefault* helper) {
    const auto& read = job.read;
    if (info.kind != RegionKind::mappable || read.bytes < kMappedReadBytesMin ||
        info.bytes < kMappedRegionBytesMin || read.remote_offset > info.bytes ||
        read.bytes > info.bytes - read.remote_offset) {
        return;
    }
    if (!mapping) {
        auto mapped = map_read_only(*this);
        if (!mapped) return;
        mapping = std::make_shared<const Mapping>(std::move(mapped).value());
        prefaulted_.resize(static_cast<std::size_t>(info.bytes / kWindowBytes + 1));
        helper_ = helper;
    }
    if (helper_ == nullptr) return;
    const std::uint64_t last = (read.remote_offset + read.bytes - 1) / kWindowBytes;
    for (std::uint64_t i = read.remote_offset / kWindowBytes; i <= last; ++i) {
        const auto window = static_cast<std::size_t>(i);
        if (prefaulted_[window]) continue;
        prefaulted_[window] = true;
        const std::size_t first = window * kWindowBytes;
        helper_->want(mapping, first, std::min<std::size_t>(kWindowBytes, mapping->size() - first));
    }
}

bool RemoteRegion::is_valid(const HolderView& holder) const {
    return holder.control->generations[info.slot].load(std::memory_order_acquire) ==
           info.generation;
}

CopyResult copy_some(const RemoteRegion& region, const HolderView& holder, Job& job,
                     std::uint64_t bytes_max) {
    const auto& read = job.read;
    const auto& info = region.info;
    if (read.remote_offset > info.bytes || read.bytes > info.bytes - read.remote_offset) {
        return CopyResult::denied;
    }
    if (!region.is_valid(holder)) return CopyResult::denied;
    const std::uint64_t left = read.bytes - job.done_bytes;
    const auto bytes = static_cast<std::size_t>(std::min(left, bytes_max));
    const ssize_t got = copy_bytes(region, holder, read.remote_offset + job.done_bytes,
                                   job.destination + job.done_bytes, bytes);
    // The number of a dead process may be that of another one by now.
    if (info.kind == RegionKind::by_process && is_dead(holder)) return CopyResult::holder_gone;
    // The copy is ordered before the check that nothing was revoked meanwhile.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!region.is_valid(holder)) return CopyResult::denied;
    if (got < 0) return failure(got);
    if (got == 0) return CopyResult::fault;
    job.done_bytes += static_cast<std::uint64_t>(got);
    return job.done_bytes == read.bytes ? CopyResult::done : CopyResult::more;
}

Result<Mapping> map_read_only(const RemoteRegion& region) {
    const auto& info = region.info;
    const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    if (info.kind != RegionKind::mappable || info.start % page_bytes != 0) {
        return Error{Code::unavailable, 0, "the region is not made of whole shared pages"};
    }
    // Do not trust the holder's word: pages past the end of the file would be a SIGBUS.
    const int seals = ::fcntl(region.fd.get(), F_GET_SEALS);
    struct ::stat status {};
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || ::fstat(region.fd.get(), &status) != 0) {
        return Error{Code::unavailable, 0, "the region's memory is not sealed against shrinking"};
    }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (info.start > size || info.bytes > size - info.start) {
        return Error{Code::unavailable, 0, "the region ends after its memory"};
    }
    return Mapping::map_file(region.fd.get(), info.start, info.bytes, false);
}

}  // namespace weightcast::transport::shm
