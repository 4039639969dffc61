// What the contract suite runs against. To add a fabric, add a line to sites() in fabrics.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fabric/fabric.h"

namespace weightcast::contract {

struct RegionPlan {
    enum class Kind {
        memory,  // a memfd
        file,    // an ordinary file, which may shrink
        gates,   // a memfd of bits that are not set; the seed fills nothing
    };
    std::uint64_t bytes = 0;
    std::uint64_t seed = 0;  // of the pattern that fills it
    Kind kind = Kind::memory;
};

// A peer that serves regions: a process of its own where the fabric has processes.
class Holder {
  public:
    virtual ~Holder() = default;
    virtual fabric::PeerAddress peer() const = 0;
    virtual fabric::RegionKey key(std::size_t region) const = 0;
    // Returns once the region is destroyed.
    virtual void drop(std::size_t region) = 0;
    // Returns once the file of a Kind::file region has this size.
    virtual void truncate(std::size_t region, std::uint64_t bytes) = 0;
    // Overwrites a region that was dropped, or that nobody reads yet, with another pattern.
    virtual void overwrite(std::size_t region, std::uint64_t seed) = 0;
    // Sets a bit of a region and tells the fabric.
    virtual void open_gate(std::size_t region, std::uint64_t bit) = 0;
    virtual void kill() = 0;   // SIGKILL
    virtual void pause() = 0;  // SIGSTOP: answers nothing, its sockets stay
    virtual void resume() = 0;
    virtual int pid() const { return -1; }  // -1: not a process of its own
};

// A peer that keeps reading a region over and over, to be killed meanwhile.
class BusyReader {
  public:
    virtual ~BusyReader() = default;
    virtual void kill() = 0;
};

// One fabric under test, with a place for its peers. Made anew for each test.
class Site {
  public:
    virtual ~Site() = default;
    // A fabric of this process.
    virtual std::unique_ptr<fabric::Fabric> open(const fabric::FabricOptions& options) = 0;
    virtual std::unique_ptr<Holder> start_holder(const std::vector<RegionPlan>& regions,
                                                 const fabric::FabricOptions& options) = 0;
    // Returns once it has completed a read of `bytes` from the region.
    virtual std::unique_ptr<BusyReader> start_reader(const fabric::PeerAddress& peer,
                                                     const fabric::RegionKey& key,
                                                     std::uint64_t bytes) = 0;
    // An address of this fabric where nobody listens.
    virtual fabric::PeerAddress nobody() = 0;
    // True if registered pages stay as they are, whatever becomes of their file.
    virtual bool pins_files() const { return false; }
};

struct SiteFactory {
    std::string name;
    std::string skip;  // why it cannot be tested here; empty if it can
    std::function<std::unique_ptr<Site>()> make;
};

std::vector<SiteFactory> sites();

// Options with a fresh incarnation.
fabric::FabricOptions fresh_options();

}  // namespace weightcast::contract
