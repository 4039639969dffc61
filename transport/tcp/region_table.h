// The regions that a tcp fabric serves, by their random ids.
//
// Thread-safe. One thread at a time, the one that has the server's lock, holds a Serving.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "fabric/fabric.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {

class RegionTable {
  public:
    // Keeps one region from being revoked while its bytes are used. Empty if there is none with
    // this id.
    class Serving {
      public:
        Serving(RegionTable& table, const RegionId& id);
        ~Serving();
        Serving(const Serving&) = delete;
        Serving& operator=(const Serving&) = delete;
        explicit operator bool() const { return memory_ != nullptr; }
        const fabric::Memory* operator->() const { return memory_; }
        const fabric::Memory& operator*() const { return *memory_; }

      private:
        RegionTable& table_;
        const fabric::Memory* memory_ = nullptr;
    };

    void add(const RegionId& id, const fabric::Memory& memory);
    // Blocks until no Serving uses the region; it is not found any more.
    void revoke(const RegionId& id);
    // How many regions were revoked so far.
    std::uint64_t revocations() const { return revocations_.load(); }

  private:
    struct Hash {
        std::size_t operator()(const RegionId& id) const {
            std::size_t hash = 0;
            std::memcpy(&hash, id.data(), sizeof hash);
            return hash;
        }
    };

    std::mutex mutex_;
    std::condition_variable released_;
    std::unordered_map<RegionId, std::unique_ptr<const fabric::Memory>, Hash> regions_;
    const fabric::Memory* serving_ = nullptr;
    std::atomic<std::uint64_t> revocations_ = 0;
};

// Shared, because a Region may outlive its fabric.
class TcpRegion final : public fabric::Region {
  public:
    TcpRegion(const fabric::Memory& memory, fabric::Access access,
              std::shared_ptr<RegionTable> table);
    ~TcpRegion() override;
    std::span<std::byte> bytes() const override { return bytes_; }
    fabric::RegionKey key() const override;

  private:
    std::span<std::byte> bytes_;
    fabric::Access access_;
    RegionId id_{};
    std::shared_ptr<RegionTable> table_;
};

}  // namespace weightcast::transport::tcp
