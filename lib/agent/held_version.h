// A version, or the part of it so far, that this process offers to peers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "agent/destination.h"
#include "agent/io_thread.h"
#include "agent/page.h"
#include "agent/registration.h"
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
    bool pulled = false;  // `owner` is this process's own copy, and nobody else changes it
    // Of `memory`, if it is registered already and shall stay so beyond this version.
    std::shared_ptr<Registration> registration;
};

// Thread-safe.
class HeldVersion {
  public:
    // Nothing of it can be read by peers yet. Errors: no_space, io.
    static Result<std::shared_ptr<HeldVersion>> create(IoThread& io, Material material,
                                                       const fabric::Incarnation& incarnation,
                                                       std::uint64_t generation);
    // Registers memory, if it is not yet, page and manifest with every fabric; one that cannot is
    // left out with a warning. Takes seconds for hundreds of gigabytes; once, before describe().
    // Errors: no_space, io (no fabric could).
    Result<void> register_all();
    double registration_seconds() const { return registration_seconds_; }
    ~HeldVersion();
    HeldVersion(const HeldVersion&) = delete;
    HeldVersion& operator=(const HeldVersion&) = delete;

    AvailabilityPage& page() { return page_; }
    const AvailabilityPage& page() const { return page_; }
    // Says that a chunk may be read, to those that wait for it too.
    // REQUIRES: its bytes are verified and in place.
    void set_chunk(std::uint32_t chunk);
    const model::Manifest& manifest() const { return *material_.named.manifest; }
    const NamedManifest& named() const { return material_.named; }
    const std::string& channel() const { return material_.channel; }
    bool pulled() const { return material_.pulled; }
    // Copies a chunk's bytes as they are now; check their digest. Errors: io, not_found (not held).
    // REQUIRES: pulled()
    Result<void> read(std::uint32_t chunk, std::span<std::byte> bytes) const;
    // The file that an artifact lies in from its first byte on; -1: it is not in one.
    int file_of(std::uint32_t artifact) const;
    Result<void> check_source() const;

    // The life of the membership (0, 1, ...) in which it was first offered.
    void announce_in(std::uint64_t life) { announced_in_ = life; }
    std::uint64_t announced_in() const { return announced_in_; }

    // Stops serving: no peer can read from it afterwards.
    void withdraw();
    bool withdrawn() const { return withdrawn_; }

    // Whether peers have been able to read it. After register_all().
    bool offered() const { return !static_part_.keys.empty(); }
    registry::Holding describe() const;
    registry::HoldingProgress progress() const;
    registry::PublishRequest publish_request() const;

  private:
    // Besides the weights, with one fabric.
    struct Served {
        std::unique_ptr<fabric::Region> page;
        std::unique_ptr<fabric::Region> manifest;
    };
    explicit HeldVersion(IoThread& io) : io_(io) {}
    Result<Served> serve_with(fabric::Fabric& fabric);
    std::uint64_t bytes_held() const;

    IoThread& io_;
    Material material_;
    AvailabilityPage page_;
    SharedMemory manifest_memory_;
    registry::Holding static_part_;  // extents and keys
    std::atomic<double> registration_seconds_{0};
    std::atomic<bool> withdrawn_{false};
    std::atomic<std::uint64_t> announced_in_{0};
    std::mutex mutex_;  // guards the rest
    std::shared_ptr<Registration> registration_;
    std::vector<Served> served_;
};

}  // namespace weightcast::agent
