// Registered memory: pinned on every rail or on none, shared among the regions that name it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "fabric/fabric.h"
#include "transport/verbs/cuda_driver.h"
#include "transport/verbs/rail.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {

using Rails = std::vector<std::unique_ptr<Rail>>;

// One range of memory, with a memory region for each rail, or several where it is large.
class Registration {
  public:
    std::span<std::byte> bytes() const { return memory_.bytes; }
    // Where the device sees bytes()[0]: there, or in another mapping of the same file.
    std::uint64_t address() const { return address_; }
    // Of the byte at the offset. Changes when the range is no longer served, so it is asked for
    // with each work request.
    std::uint32_t local_key(std::uint64_t offset, std::size_t rail) const {
        return local_keys_[(offset >> slice_shift_) * rails_ + rail].load(
            std::memory_order_relaxed);
    }
    // From the offset to the end of what one memory region covers.
    std::uint64_t slice_left(std::uint64_t offset) const {
        return (((offset >> slice_shift_) + 1) << slice_shift_) - offset;
    }
    fabric::RegionKey remote_key() const;

  private:
    friend class RegistrationTable;
    using Regions = std::vector<RegionHandle>;  // slice by slice, by rail within

    fabric::Memory memory_;
    std::uint64_t address_ = 0;
    unsigned slice_shift_ = 63;
    std::size_t rails_ = 0;
    bool writable_ = false;  // by our own reads
    Mapping alias_;          // before the regions, which pin it
    Regions regions_;
    std::unique_ptr<std::atomic<std::uint32_t>[]> local_keys_;
    std::uint32_t readers_ = 0;  // regions with Access::remote_read
    std::uint32_t writers_ = 0;  // regions with Access::local
};

// Makes registrations, and finds those that can serve another region too: the same range offered
// twice, or the destination of reads inside a range that is offered. Nothing is kept beyond its
// last region, since nobody tells when such memory is unmapped. Thread-safe.
class RegistrationTable {
  public:
    // `rails` are shared, because a region may outlive its fabric. Memory is registered in slices
    // of at least `slice_bytes`, a power of two, at the same time.
    RegistrationTable(std::shared_ptr<const Rails> rails, std::uint64_t slice_bytes,
                      std::string cuda_library)
        : rails_(std::move(rails)),
          slice_bytes_(slice_bytes),
          cuda_library_(std::move(cuda_library)) {}

    // For one region; take() and give_back() go in pairs.
    // Errors: no_space (with the amount, the limit and how to raise it), invalid_input, io.
    Result<std::shared_ptr<Registration>> take(const fabric::Memory& memory, fabric::Access access);
    // With the last region that offered the range its remote keys are gone, at once, even if reads
    // into it are still running: these go on with local keys.
    void give_back(const std::shared_ptr<Registration>& registration, fabric::Access access);

  private:
    using Regions = Registration::Regions;

    std::shared_ptr<Registration> find(const fabric::Memory& memory, fabric::Access access);
    Result<void> register_host(Registration& registration, fabric::Access access);
    Result<void> register_file(Registration& registration);
    Result<void> register_cuda(Registration& registration, fabric::Access access);
    unsigned choose_slice_shift(std::uint64_t bytes) const;
    Result<Regions> register_slices(const Registration& registration, int access) const;
    Result<const CudaDriver*> cuda();
    static void set_regions(Registration& registration, Regions regions);
    void stop_serving(Registration& registration);

    const std::shared_ptr<const Rails> rails_;
    const std::uint64_t slice_bytes_;
    const std::string cuda_library_;
    std::mutex mutex_;
    std::vector<std::shared_ptr<Registration>> live_;
    std::unique_ptr<CudaDriver> cuda_;
};

class VerbsRegion final : public fabric::Region {
  public:
    VerbsRegion(std::shared_ptr<RegistrationTable> table,
                std::shared_ptr<Registration> registration, const fabric::Memory& memory,
                fabric::Access access)
        : table_(std::move(table)),
          registration_(std::move(registration)),
          bytes_(memory.bytes),
          access_(access) {}
    ~VerbsRegion() override { table_->give_back(registration_, access_); }
    std::span<std::byte> bytes() const override { return bytes_; }
    fabric::RegionKey key() const override;

    // For the work requests of reads into it; offsets are into bytes().
    std::uint64_t address(std::uint64_t offset) const {
        return registration_->address() + skip() + offset;
    }
    std::uint32_t local_key(std::uint64_t offset, std::size_t rail) const {
        return registration_->local_key(skip() + offset, rail);
    }
    std::uint64_t slice_left(std::uint64_t offset) const {
        return registration_->slice_left(skip() + offset);
    }

  private:
    std::uint64_t skip() const {
        return static_cast<std::uint64_t>(bytes_.data() - registration_->bytes().data());
    }

    std::shared_ptr<RegistrationTable> table_;    // shared with its fabric and its other regions
    std::shared_ptr<Registration> registration_;  // shared with regions of the same range
    std::span<std::byte> bytes_;
    fabric::Access access_;
};

}  // namespace weightcast::transport::verbs
