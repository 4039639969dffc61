#include "base/mapping.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>

#include <cerrno>

namespace weightcast {

Mapping::~Mapping() {
    if (address_ != nullptr) ::munmap(address_, bytes_);
}

Result<Mapping> Mapping::map_file(int fd, std::uint64_t offset, std::size_t bytes, bool writable) {
    if (bytes == 0) return Mapping();
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void* address =
        ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, static_cast<::off_t>(offset));
    if (address == MAP_FAILED) {
        return system_error(errno, fmt::format("cannot map {} bytes", bytes));
    }
    return Mapping(address, bytes);
}

Result<SharedMemory> SharedMemory::create(const std::string& name, std::size_t bytes) {
    SharedMemory memory;
    memory.fd.reset(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory.fd) return system_error(errno, "memfd_create");
    if (::ftruncate(memory.fd.get(), static_cast<::off_t>(bytes)) != 0) {
        return system_error(errno, fmt::format("cannot size shared memory to {} bytes", bytes));
    }
    if (::fcntl(memory.fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
        return system_error(errno, "cannot seal shared memory");
    }
    WEIGHTCAST_TRY(memory.pages, Mapping::map_file(memory.fd.get(), 0, bytes, true));
    if (bytes >= 2U << 20U) ::madvise(memory.pages.data(), bytes, MADV_HUGEPAGE);
    return memory;
}

}  // namespace weightcast
