#include "tests/kit/shared_world.h"

#include <utility>

namespace weightcast::kit {
namespace {

using Lock = std::lock_guard<std::mutex>;

class LockedRegion final : public fabric::Region {
  public:
    LockedRegion(std::shared_ptr<std::mutex> mutex, std::unique_ptr<fabric::Region> region)
        : mutex_(std::move(mutex)), region_(std::move(region)) {}
    ~LockedRegion() override {
        const Lock lock(*mutex_);
        region_.reset();
    }
    std::span<std::byte> bytes() const override { return region_->bytes(); }
    fabric::RegionKey key() const override { return region_->key(); }
    fabric::Region* inner() const { return region_.get(); }

  private:
    std::shared_ptr<std::mutex> mutex_;
    std::unique_ptr<fabric::Region> region_;
};

class LockedFabric final : public fabric::Fabric {
  public:
    LockedFabric(std::shared_ptr<std::mutex> mutex, std::unique_ptr<fabric::Fabric> fabric)
        : mutex_(std::move(mutex)), fabric_(std::move(fabric)) {}
    ~LockedFabric() override {
        const Lock lock(*mutex_);
        fabric_.reset();
    }

    const char* name() const override { return fabric_->name(); }
    bool emulated() const override { return fabric_->emulated(); }
    std::string address() const override { return fabric_->address(); }
    bool can_reach(const std::string& address) const override {
        return fabric_->can_reach(address);
    }
    Result<std::unique_ptr<fabric::Region>> register_memory(const fabric::Memory& memory,
                                                            fabric::Access access) override {
        const Lock lock(*mutex_);
        WEIGHTCAST_TRY(auto region, fabric_->register_memory(memory, access));
        return std::unique_ptr<fabric::Region>(
            std::make_unique<LockedRegion>(mutex_, std::move(region)));
    }
    fabric::LinkId connect(const fabric::PeerAddress& peer) override {
        const Lock lock(*mutex_);
        return fabric_->connect(peer);
    }
    void disconnect(fabric::LinkId link) override {
        const Lock lock(*mutex_);
        fabric_->disconnect(link);
    }
    std::string link_error(fabric::LinkId link) const override {
        const Lock lock(*mutex_);
        return fabric_->link_error(link);
    }
    void submit(std::span<const fabric::Read> reads) override {
        const Lock lock(*mutex_);
        for (fabric::Read read : reads) {
            read.local = static_cast<LockedRegion*>(read.local)->inner();
            fabric_->submit({&read, 1});
        }
    }
    bool can_wait() const override { return fabric_->can_wait(); }
    void gates_opened() override {
        const Lock lock(*mutex_);
        fabric_->gates_opened();
    }
    std::size_t poll(std::span<fabric::Completion> completions) override {
        const Lock lock(*mutex_);
        return fabric_->poll(completions);
    }
    int wait_fd() const override { return fabric_->wait_fd(); }
    std::uint64_t bytes_served() const override {
        const Lock lock(*mutex_);
        return fabric_->bytes_served();
    }

  private:
    std::shared_ptr<std::mutex> mutex_;
    std::unique_ptr<fabric::Fabric> fabric_;
};

}  // namespace

SharedWorld::SharedWorld(std::uint64_t seed)
    : mutex_(std::make_shared<std::mutex>()), world_(seed) {}

Result<std::unique_ptr<fabric::Fabric>> SharedWorld::open(const fabric::FabricOptions& options,
                                                          const std::string& address) {
    const Lock lock(*mutex_);
    WEIGHTCAST_TRY(auto fabric, world_.open(options, address));
    return std::unique_ptr<fabric::Fabric>(
        std::make_unique<LockedFabric>(mutex_, std::move(fabric)));
}

}  // namespace weightcast::kit
