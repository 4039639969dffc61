#include "transport/shm/region_table.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "base/random.h"

namespace weightcast::transport::shm {
namespace {

// A descriptor through which nobody can write, whatever `fd` allows.
Result<UniqueFd> reopen_read_only(int fd) {
    const std::string path = fmt::format("/proc/self/fd/{}", fd);
    UniqueFd opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened) return system_error(errno, "cannot open shared memory read-only through " + path);
    return opened;
}

bool is_sealed(int fd) {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

}  // namespace

Result<std::shared_ptr<RegionTable>> RegionTable::create() {
    auto table = std::make_shared<RegionTable>();
    WEIGHTCAST_TRY(table->control_,
                   SharedMemory::create("weightcast-control", sizeof(ControlPage)));
    WEIGHTCAST_TRY(table->control_fd_, reopen_read_only(table->control_.fd.get()));
    // Zero-filled pages are what the constructor of the page's atomics would make of them.
    table->page_ = reinterpret_cast<ControlPage*>(table->control_.pages.data());
    return table;
}

Result<Key> RegionTable::add(const fabric::Memory& memory) {
    Entry entry;
    entry.reply.bytes = memory.bytes.size();
    if (memory.fd >= 0) {
        struct ::stat status {};
        if (::fstat(memory.fd, &status) != 0) return system_error(errno, "cannot register memory");
        const auto size = static_cast<std::uint64_t>(status.st_size);
        if (memory.fd_offset > size || memory.bytes.size() > size - memory.fd_offset) {
            return Error{Code::invalid_input, 0,
                         fmt::format("{} bytes at {} are not within a file of {} bytes",
                                     memory.bytes.size(), memory.fd_offset, size)};
        }
        WEIGHTCAST_TRY(entry.fd, reopen_read_only(memory.fd));
        const bool fixed = !memory.fd_may_shrink && is_sealed(memory.fd);
        entry.reply.kind = fixed ? RegionKind::mappable : RegionKind::file;
        entry.reply.start = memory.fd_offset;
    } else {
        entry.reply.kind = RegionKind::by_process;
        entry.reply.start = reinterpret_cast<std::uintptr_t>(memory.bytes.data());
    }
    entry.reply.key = random_identity();

    const std::lock_guard lock(mutex_);
    if (free_slots_.empty() && slots_used_ == kSlots) {
        return Error{
            Code::no_space, 0,
            fmt::format("shm exports at most {} regions; register fewer, larger ones", kSlots)};
    }
    if (free_slots_.empty()) {
        entry.reply.slot = slots_used_++;
    } else {
        entry.reply.slot = free_slots_.back();
        free_slots_.pop_back();
    }
    entry.reply.generation = ++generation_;
    page_->generations[entry.reply.slot].store(entry.reply.generation, std::memory_order_release);
    const Key key = entry.reply.key;
    entries_.emplace(key, std::move(entry));
    return key;
}

void RegionTable::remove(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return;
    const auto slot = found->second.reply.slot;
    // Sequentially consistent: what the owner writes to the memory from now on is ordered after it.
    page_->generations[slot].store(0, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    free_slots_.push_back(slot);
    entries_.erase(found);
}

OpenReply RegionTable::find(const Key& key, UniqueFd& fd) const {
    const std::lock_guard lock(mutex_);
    fd.reset();
    OpenReply reply;
    const auto found = entries_.find(key);
    if (found != entries_.end()) {
        reply = found->second.reply;
        if (found->second.fd) fd.reset(::fcntl(found->second.fd.get(), F_DUPFD_CLOEXEC, 0));
    }
    reply.key = key;
    return reply;
}

}  // namespace weightcast::transport::shm
