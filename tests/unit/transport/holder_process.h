// A child process that holds memory and does what the test tells it to. Start it before the test
// makes threads.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "fabric/fabric.h"

namespace weightcast::test {

enum class MemoryKind : char { memfd, file, process };

// The byte that a holder started with `seed` has at `offset`.
std::byte pattern(std::uint64_t seed, std::uint64_t offset);

class HolderProcess {
  public:
    using Open = Result<std::unique_ptr<fabric::Fabric>> (*)(const fabric::FabricOptions&);

    // The first `hidden_bytes` of its memory are not part of the region.
    HolderProcess(Open open, MemoryKind kind, std::uint64_t seed, std::size_t bytes,
                  std::size_t hidden_bytes = 0);
    ~HolderProcess();
    HolderProcess(const HolderProcess&) = delete;
    HolderProcess& operator=(const HolderProcess&) = delete;

    const fabric::PeerAddress& peer() const { return peer_; }
    const fabric::RegionKey& key() const { return key_; }

    // Each returns once the holder has done it.
    void revoke();    // destroys the region, then overwrites the memory with zeros
    void truncate();  // cuts its file to half
    void unmap();     // takes the memory away while it is registered
    void kill();      // SIGKILL
    void stop();      // SIGSTOP
    void resume();    // SIGCONT

  private:
    void command(char what);

    ::pid_t child_ = -1;
    UniqueFd commands_;
    UniqueFd answers_;
    fabric::PeerAddress peer_;
    fabric::RegionKey key_;
};

// Polls, and waits on wait_fd() for wait_ms(), until `count` completions came.
std::vector<fabric::Completion> finish(fabric::Fabric& fabric, std::size_t count);

}  // namespace weightcast::test
