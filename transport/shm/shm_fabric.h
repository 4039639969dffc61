// Reads between processes of one host: the reader copies straight out of the holder's memory, and
// the holder does nothing for it.
//
// Memory behind a descriptor (Memory::fd) is read through that descriptor; other memory is read
// with process_vm_readv, which the kernel may forbid (kernel.yama.ptrace_scope, seccomp, or another
// process namespace): publish a memfd where that is so. A reader holds a read-only descriptor, so
// that it does not write by mistake; it is no protection from a hostile process of the same user,
// which could as well attach a debugger. FabricOptions::serve_rate_max has no effect here, since
// the holder does not see the reads.
//
// map_region() checks the key once. What happens to the mapping after the holder revoked the region
// is the caller's matter: its content may change, but touching it is never a fault.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/shm/link.h"
#include "transport/shm/prefault.h"
#include "transport/shm/region_table.h"
#include "transport/shm/server.h"

namespace weightcast::transport::shm {

class ShmFabric final : public fabric::Fabric {
  public:
    // Errors: unavailable (no /proc), io, no_space.
    static Result<std::unique_ptr<fabric::Fabric>> open(const fabric::FabricOptions& options);
    ~ShmFabric() override;

    const char* name() const override { return "shm"; }
    bool emulated() const override { return false; }
    std::string address() const override { return address_; }
    bool can_reach(const std::string& address) const override;
    Result<std::unique_ptr<fabric::Region>> register_memory(const fabric::Memory& memory,
                                                            fabric::Access access) override;
    fabric::LinkId connect(const fabric::PeerAddress& peer) override;
    void disconnect(fabric::LinkId link) override;
    std::string link_error(fabric::LinkId link) const override;
    void submit(std::span<const fabric::Read> reads) override;
    std::size_t poll(std::span<fabric::Completion> completions) override;
    int wait_fd() const override { return epoll_.get(); }
    int wait_ms() const override;
    Result<Mapping> map_region(fabric::LinkId link, std::span<const std::byte> key) override;
    std::uint64_t bytes_served() const override { return 0; }

  private:
    struct Queued {
        std::shared_ptr<RemoteRegion> region;
        Job job;
    };

    explicit ShmFabric(const fabric::FabricOptions& options) : options_(options) {}
    Result<void> start();
    void watch(fabric::LinkId id, Link& link);
    void take(Link::Outcome& outcome);
    void submit_one(const fabric::Read& read, TimePoint now);
    void progress_links();
    void copy_slices(std::size_t completions_max);
    void finish(const Queued& queued, CopyResult result, Link& link);
    Result<std::shared_ptr<RemoteRegion>> wait_for_region(Link& link, fabric::LinkId id,
                                                          const Key& key);
    void set_wake();

    const fabric::FabricOptions options_;
    std::string scope_;
    std::string address_;
    std::shared_ptr<RegionTable> regions_;  // shared with the regions, which may outlive us
    std::unique_ptr<Server> server_;
    UniqueFd epoll_;  // the sockets of all links, and wake_
    UniqueFd wake_;   // an eventfd, readable while poll() has something to do
    bool is_awake_ = false;
    std::unique_ptr<Prefault> prefault_;  // used by regions of links_ and queue_; null: none
    std::map<fabric::LinkId, std::unique_ptr<Link>> links_;
    std::uint32_t links_made_ = 0;
    std::deque<Queued> queue_;
    std::deque<fabric::Completion> done_;
};

}  // namespace weightcast::transport::shm
