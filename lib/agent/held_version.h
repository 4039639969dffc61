// A version, or the part of it so far, that this process offers to peers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/destination.h"
#include "agent/io_thread.h"
#include "agent/page.h"
#include "model/manifest.h"
#include "registry/messages.h"

namespace weightcast::agent {

// A manifest with its encoding and name.
struct NamedManifest {
    std::shared_ptr<const model::Manifest> manifest;
    std::vector<std::byte> encoded;
    model::Sha256 name;
};

// What is offered. `owner` keeps the memory alive.
struct Material {
    NamedManifest named;
    std::vector<PlacedMemory> memory;  // by ascending place
    std::shared_ptr<void> owner;
    std::string channel;  // to publish to, if the registry has to be told of the version again
    std::function<Result<void>()> check_source;  // fails once the source has changed; may be empty
};

// Thread-safe, but for the constructor and destructor's use of the I/O thread.
class HeldVersion {
  public:
    // Registers memory, page and manifest with every fabric; one that cannot is left out with a
    // warning. Blocks on the I/O thread. Errors: no_space, io (no fabric could).
    static Result<std::shared_ptr<HeldVersion>> create(IoThread& io, Material material,
                                                       const fabric::Incarnation& incarnation,
                                                       std::uint64_t generation);
    ~HeldVersion();
    HeldVersion(const HeldVersion&) = delete;
    HeldVersion& operator=(const HeldVersion&) = delete;

    AvailabilityPage& page() { return page_; }
    const model::Manifest& manifest() const { return *material_.named.manifest; }
    const NamedManifest& named() const { return material_.named; }
    const std::string& channel() const { return material_.channel; }
    Result<void> check_source() const;

    // Stops serving: no peer can read from it afterwards.
    void withdraw();
    bool withdrawn() const { return withdrawn_; }

    registry::Holding describe() const;
    registry::HoldingProgress progress() const;
    registry::PublishRequest publish_request() const;

  private:
    struct Registered {
        std::string fabric;
        std::vector<std::unique_ptr<fabric::Region>> regions;
        std::unique_ptr<fabric::Region> page;
        std::unique_ptr<fabric::Region> manifest;
    };
    explicit HeldVersion(IoThread& io) : io_(io) {}
    Result<Registered> register_with(fabric::Fabric& fabric);
    Result<void> register_all();
    std::uint64_t bytes_held() const;

    IoThread& io_;
    Material material_;
    AvailabilityPage page_;
    SharedMemory manifest_memory_;
    registry::Holding static_part_;  // extents and keys
    std::vector<Registered> registered_;
    std::atomic<bool> withdrawn_{false};
};

}  // namespace weightcast::agent
