#include "transport/verbs/registration.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/worker_pool.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::Access;
using fabric::Memory;

// READ answers may come in any order among themselves: nobody looks at a destination before its
// completion, which is ordered after them.
constexpr int kServe =
    static_cast<int>(IBV_ACCESS_REMOTE_READ) | static_cast<int>(IBV_ACCESS_RELAXED_ORDERING);
constexpr int kReceive =
    static_cast<int>(IBV_ACCESS_LOCAL_WRITE) | static_cast<int>(IBV_ACCESS_RELAXED_ORDERING);

constexpr std::size_t kPopulateBytesMin = 32U << 20U;
constexpr std::size_t kPopulatePiece = 64U << 20U;

// Pages are faulted in by all cores, which the registration itself would do on one. Only saves
// time: whatever it cannot do, the registration does, or says why not.
void populate(std::span<std::byte> bytes, bool to_write) {
#if defined(MADV_POPULATE_READ) && defined(MADV_POPULATE_WRITE)
    if (bytes.size() < kPopulateBytesMin) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(bytes.data()) & ~(page - 1);
    const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(bytes.data()) + bytes.size();
    parallel_for((end - first + kPopulatePiece - 1) / kPopulatePiece, [&](std::size_t i) {
        const std::uintptr_t at = first + i * kPopulatePiece;
        ::madvise(std::bit_cast<void*>(at), std::min<std::size_t>(kPopulatePiece, end - at),
                  to_write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    });
#endif
}

Error registration_error(int failure, const Rail& rail, std::size_t bytes) {
    std::string what = fmt::format("cannot register {} bytes on {}", bytes, rail.name());
    ::rlimit limit{};
    const bool limited =
        ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    if (failure != ENOMEM || !limited) return system_error(failure, what);
    what += fmt::format(
        ": RLIMIT_MEMLOCK lets this process pin {} bytes in all; raise it by `ulimit -l "
        "unlimited`, LimitMEMLOCK=infinity in a systemd unit, or --ulimit memlock=-1 for a "
        "container",
        limit.rlim_cur);
    return {Code::no_space, failure, std::move(what)};
}

std::uint64_t address_of(const std::byte* bytes) { return reinterpret_cast<std::uintptr_t>(bytes); }

}  // namespace

fabric::RegionKey Registration::remote_key() const {
    RegionKeyParts parts;
    parts.base = address_;
    parts.bytes = memory_.bytes.size();
    parts.rails = static_cast<std::uint8_t>(rails_);
    parts.slice_shift = static_cast<std::uint8_t>(slice_shift_);
    for (const RegionHandle& region : regions_) parts.keys.push_back(region->rkey);
    return encode_key(parts);
}

fabric::RegionKey VerbsRegion::key() const {
    return access_ == Access::local ? fabric::RegionKey() : registration_->remote_key();
}

Result<std::shared_ptr<Registration>> RegistrationTable::take(const Memory& memory, Access access) {
    if (auto found = find(memory, access)) return found;
    const TimePoint start = system_clock().now();
    auto registration = std::make_shared<Registration>();
    registration->memory_ = memory;
    registration->address_ = address_of(memory.bytes.data());
    registration->rails_ = rails_->size();
    if (memory.cuda) {
        WEIGHTCAST_CHECK(register_cuda(*registration, access));
    } else if (memory.fd_may_shrink && access == Access::remote_read) {
        WEIGHTCAST_CHECK(register_file(*registration));
    } else {
        WEIGHTCAST_CHECK(register_host(*registration, access));
    }
    log(LogLevel::debug, "registered {} bytes on {} rails in {:.3f} s", memory.bytes.size(),
        rails_->size(), seconds(system_clock().now() - start));
    const std::lock_guard lock(mutex_);
    ++(access == Access::local ? registration->writers_ : registration->readers_);
    live_.push_back(registration);
    return registration;
}

// A live registration that serves for this region too, counted for it.
std::shared_ptr<Registration> RegistrationTable::find(const Memory& memory, Access access) {
    const std::lock_guard lock(mutex_);
    const std::byte* const first = memory.bytes.data();
    for (const auto& candidate : live_) {
        const std::span<std::byte> have = candidate->memory_.bytes;
        if (candidate->memory_.cuda != memory.cuda) continue;
        if (access == Access::remote_read) {
            if (candidate->readers_ == 0 || have.data() != first ||
                have.size() != memory.bytes.size()) {
                continue;
            }
            ++candidate->readers_;
            return candidate;
        }
        const bool covers =
            have.data() <= first && first + memory.bytes.size() <= have.data() + have.size();
        if (!covers || !candidate->writable_) continue;
        ++candidate->writers_;
        return candidate;
    }
    return nullptr;
}

void RegistrationTable::give_back(const std::shared_ptr<Registration>& registration,
                                  Access access) {
    // Unpinned after the lock, since that takes time.
    Regions gone;
    const std::lock_guard lock(mutex_);
    auto& users = access == Access::local ? registration->writers_ : registration->readers_;
    WEIGHTCAST_ASSERT(users > 0);
    if (--users > 0) return;
    if (registration->readers_ == 0 && registration->writers_ == 0) {
        std::erase(live_, registration);
        gone = std::move(registration->regions_);
    } else if (access == Access::remote_read) {
        stop_serving(*registration);
    }
}

// Memory that reads still run into gets keys that no peer has; the old ones are gone after this.
void RegistrationTable::stop_serving(Registration& registration) {
    auto regions = register_slices(registration, kReceive);
    if (!regions) {
        log(LogLevel::error, "reads into memory that is no longer served fail: {}",
            regions.error().message);
        registration.writable_ = false;
        registration.regions_.clear();
        return;
    }
    set_regions(registration, std::move(regions).value());
}

void RegistrationTable::set_regions(Registration& registration, Regions regions) {
    if (!registration.local_keys_) {
        registration.local_keys_ = std::make_unique<std::atomic<std::uint32_t>[]>(regions.size());
    }
    for (std::size_t i = 0; i < regions.size(); ++i) {
        registration.local_keys_[i].store(regions[i]->lkey, std::memory_order_relaxed);
    }
    registration.regions_ = std::move(regions);
}

// As small as asked for, unless the keys would be too many for one region key.
unsigned RegistrationTable::choose_slice_shift(std::uint64_t bytes) const {
    auto shift = static_cast<unsigned>(std::countr_zero(slice_bytes_));
    while ((((bytes - 1) >> shift) + 1) * rails_->size() > kRemoteKeysMax) ++shift;
    return shift;
}

// All or none, on all cores: pinning is what takes time, and it can be done page by page.
Result<RegistrationTable::Regions> RegistrationTable::register_slices(
    const Registration& registration, int access) const {
    const std::size_t bytes = registration.memory_.bytes.size();
    const std::uint64_t slice_bytes = std::uint64_t{1} << registration.slice_shift_;
    const std::size_t slices = ((bytes - 1) >> registration.slice_shift_) + 1;
    const std::size_t rails = rails_->size();
    Regions regions(slices * rails);
    std::vector<int> failures(regions.size());
    const auto register_one = [&](std::size_t i) {
        const std::uint64_t offset = (i / rails) << registration.slice_shift_;
        const std::uint64_t address = registration.address_ + offset;
        // What the macro ibv_reg_mr() calls when it is given optional flags.
        regions[i].reset(::ibv_reg_mr_iova2((*rails_)[i % rails]->domain(),
                                            std::bit_cast<void*>(address),
                                            std::min<std::uint64_t>(slice_bytes, bytes - offset),
                                            address, static_cast<unsigned>(access)));
        if (!regions[i]) failures[i] = errno;
    };
    if (bytes >= kPopulateBytesMin) {
        parallel_for(regions.size(), register_one);
    } else {
        for (std::size_t i = 0; i < regions.size(); ++i) register_one(i);
    }
    for (std::size_t i = 0; i < regions.size(); ++i) {
        // What was registered goes with `regions`.
        if (!regions[i]) return registration_error(failures[i], *(*rails_)[i % rails], bytes);
    }
    return regions;
}

Result<void> RegistrationTable::register_host(Registration& registration, Access access) {
    const std::span<std::byte> bytes = registration.memory_.bytes;
    registration.slice_shift_ = choose_slice_shift(bytes.size());
    populate(bytes, true);
    const int serve = access == Access::remote_read ? kServe : 0;
    auto regions = register_slices(registration, serve | kReceive);
    registration.writable_ = regions.has_value();
    // Memory that may not be written can still be served.
    if (!regions && access == Access::remote_read && regions.error().sys_errno == EFAULT) {
        regions = register_slices(registration, kServe);
    }
    if (!regions) return std::move(regions).error();
    set_regions(registration, std::move(regions).value());
    return success();
}

// A file's pages, where they are in the page cache, so that what is written to the file later is
// served. Linux before 6.2 pins only mappings that may be written. A file that is open for writing
// is mapped so; one that is open for reading only is not going to change, and a private mapping
// serves, of which the kernel then makes a copy.
Result<void> RegistrationTable::register_file(Registration& registration) {
    const Memory& memory = registration.memory_;
    registration.slice_shift_ = choose_slice_shift(memory.bytes.size());
    populate(memory.bytes, false);
    auto regions = register_slices(registration, kServe);
    if (!regions && regions.error().sys_errno == EFAULT) {
        const int mode = ::fcntl(memory.fd, F_GETFL) & O_ACCMODE;
        const bool shared = mode == O_RDWR;
        const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        const std::uint64_t skip = memory.fd_offset % page;
        const std::size_t bytes = memory.bytes.size() + skip;
        void* at = ::mmap(nullptr, bytes, shared ? PROT_READ | PROT_WRITE : PROT_READ,
                          shared ? MAP_SHARED : MAP_PRIVATE, memory.fd,
                          static_cast<::off_t>(memory.fd_offset - skip));
        if (at == MAP_FAILED) return system_error(errno, "cannot map a file to serve it");
        registration.alias_ = Mapping(at, bytes);
        registration.address_ = address_of(registration.alias_.data()) + skip;
        populate(registration.alias_.span(), shared);
        regions = register_slices(registration, kServe);
    }
    if (!regions) return std::move(regions).error();
    set_regions(registration, std::move(regions).value());
    return success();
}

Result<const CudaDriver*> RegistrationTable::cuda() {
    const std::lock_guard lock(mutex_);
    if (!cuda_) {
        WEIGHTCAST_TRY(cuda_, CudaDriver::load(cuda_library_));
    }
    return static_cast<const CudaDriver*>(cuda_.get());
}

// By dmabuf; where the kernel, the device or the GPU cannot do that, by the peer memory client of
// the NVIDIA driver (module nvidia-peermem), which makes ibv_reg_mr take GPU addresses.
Result<void> RegistrationTable::register_cuda(Registration& registration, Access access) {
    const std::span<std::byte> bytes = registration.memory_.bytes;
    const int flags = kReceive | (access == Access::remote_read ? kServe : 0);
    WEIGHTCAST_TRY(const CudaDriver* driver, cuda());
    std::string refusal;
    Regions regions(rails_->size());
    const auto dmabuf = driver->export_dmabuf(bytes);
    if (!dmabuf && dmabuf.error().code == Code::invalid_input) return dmabuf.error();
    if (!dmabuf) refusal = dmabuf.error().message;
    for (std::size_t rail = 0; dmabuf && rail < regions.size(); ++rail) {
        const Dmabuf& buffer = dmabuf.value();
        regions[rail].reset(::ibv_reg_dmabuf_mr((*rails_)[rail]->domain(), buffer.offset,
                                                bytes.size(), registration.address_,
                                                buffer.fd.get(), flags));
        if (regions[rail]) continue;
        refusal = system_error(errno, "ibv_reg_dmabuf_mr on " + (*rails_)[rail]->name()).message;
        break;
    }
    if (!refusal.empty()) {
        regions.clear();
        auto by_peermem = register_slices(registration, flags);
        if (!by_peermem) {
            Error error = std::move(by_peermem).error();
            error.message = fmt::format(
                "cannot register {} bytes of GPU memory: by dmabuf: {}; by nvidia-peermem: {} (is "
                "the module loaded?)",
                bytes.size(), refusal, error.message);
            return error;
        }
        log(LogLevel::info, "GPU memory goes by nvidia-peermem, since by dmabuf: {}", refusal);
        regions = std::move(by_peermem).value();
    }
    registration.writable_ = true;
    set_regions(registration, std::move(regions));
    return success();
}

}  // namespace weightcast::transport::verbs
