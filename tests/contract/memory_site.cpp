#include "tests/contract/memory_site.h"

#include <array>
#include <utility>

#include "base/assert.h"
#include "base/random.h"
#include "tests/contract/served.h"
#include "transport/memory/memory_fabric.h"

namespace weightcast::contract {
namespace {

using transport::MemoryWorld;
using World = std::shared_ptr<MemoryWorld>;  // a holder may outlive its site

std::unique_ptr<fabric::Fabric> must_open(MemoryWorld& world,
                                          const fabric::FabricOptions& options) {
    auto fabric = world.open(options);
    WEIGHTCAST_ASSERT(fabric.has_value());
    return std::move(fabric).value();
}

class MemoryHolder final : public Holder {
  public:
    MemoryHolder(World world, const std::vector<RegionPlan>& plans,
                 const fabric::FabricOptions& options)
        : world_(std::move(world)),
          fabric_(must_open(*world_, options)),
          served_(*fabric_, plans),
          peer_{fabric_->address(), options.incarnation} {
        for (std::size_t i = 0; i < served_.size(); ++i) keys_.push_back(served_.key(i));
    }
    fabric::PeerAddress peer() const override { return peer_; }
    fabric::RegionKey key(std::size_t region) const override { return keys_[region]; }
    void drop(std::size_t region) override { served_.drop(region); }
    void truncate(std::size_t region, std::uint64_t bytes) override {
        served_.truncate(region, bytes);
    }
    void overwrite(std::size_t region, std::uint64_t seed) override {
        served_.overwrite(region, seed);
    }
    void open_gate(std::size_t region, std::uint64_t bit) override {
        served_.open_gate(region, bit);
    }
    void kill() override { world_->kill(peer_.address); }
    void pause() override { world_->pause(peer_.address); }
    void resume() override { world_->resume(peer_.address); }

  private:
    World world_;
    std::unique_ptr<fabric::Fabric> fabric_;
    Served served_;
    fabric::PeerAddress peer_;
    std::vector<fabric::RegionKey> keys_;
};

class MemoryReader final : public BusyReader {
  public:
    MemoryReader(MemoryWorld& world, const fabric::PeerAddress& peer, fabric::RegionKey key,
                 std::uint64_t bytes)
        : memory_(static_cast<std::size_t>(bytes)), key_(std::move(key)) {
        fabric_ = must_open(world, fresh_options());
        fabric::Memory local;
        local.bytes = memory_;
        region_ = std::move(fabric_->register_memory(local, fabric::Access::local)).value();
        const fabric::LinkId link = fabric_->connect(peer);
        const fabric::Read read{link, key_, 0, region_.get(), 0, bytes, fabric::ReadTag(1)};
        const std::array<fabric::Read, 2> reads = {read, read};
        fabric_->submit(reads);
        fabric::Completion done;
        for (int polls = 0; fabric_->poll({&done, 1}) == 0; ++polls) {
            WEIGHTCAST_ASSERT(polls < 1'000'000);
        }
    }
    void kill() override { fabric_.reset(); }

  private:
    std::vector<std::byte> memory_;
    fabric::RegionKey key_;
    std::unique_ptr<fabric::Fabric> fabric_;
    std::unique_ptr<fabric::Region> region_;
};

class MemorySite final : public Site {
  public:
    explicit MemorySite(std::uint64_t seed) : world_(std::make_shared<MemoryWorld>(seed)) {}
    std::unique_ptr<fabric::Fabric> open(const fabric::FabricOptions& options) override {
        return must_open(*world_, options);
    }
    std::unique_ptr<Holder> start_holder(const std::vector<RegionPlan>& regions,
                                         const fabric::FabricOptions& options) override {
        return std::make_unique<MemoryHolder>(world_, regions, options);
    }
    std::unique_ptr<BusyReader> start_reader(const fabric::PeerAddress& peer,
                                             const fabric::RegionKey& key,
                                             std::uint64_t bytes) override {
        return std::make_unique<MemoryReader>(*world_, peer, key, bytes);
    }
    fabric::PeerAddress nobody() override { return {"memory://nobody", random_identity()}; }

  private:
    World world_;
};

}  // namespace

std::unique_ptr<Site> make_memory_site(std::uint64_t seed) {
    return std::make_unique<MemorySite>(seed);
}

}  // namespace weightcast::contract
