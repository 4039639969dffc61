// Sole owner of a range of mapped pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "weightcast/result.h"

namespace weightcast {

class Mapping {
  public:
    Mapping() = default;
    // Takes over pages that mmap returned.
    Mapping(void* address, std::size_t bytes) noexcept
        : address_(static_cast<std::byte*>(address)), bytes_(bytes) {}
    Mapping(Mapping&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)),
          bytes_(std::exchange(other.bytes_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        std::swap(address_, other.address_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();

    // Pages of `fd` from `offset` (a multiple of the page size), shared with all who map it.
    // Errors: io, no_space.
    static Result<Mapping> map_file(int fd, std::uint64_t offset, std::size_t bytes, bool writable);

    std::byte* data() const noexcept { return address_; }
    std::size_t size() const noexcept { return bytes_; }
    std::span<std::byte> span() const noexcept { return {address_, bytes_}; }

  private:
    std::byte* address_ = nullptr;
    std::size_t bytes_ = 0;
};

// Memory that other processes of this host can map: a memfd of fixed size and its mapping.
struct SharedMemory {
    UniqueFd fd;
    Mapping pages;

    // Zero-filled, populated on first touch, sealed against shrinking.
    // Errors: no_space with the amount that was asked for, io.
    static Result<SharedMemory> create(const std::string& name, std::size_t bytes);
};

}  // namespace weightcast
