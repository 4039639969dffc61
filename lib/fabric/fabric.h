// What every transport provides: register memory, reach a peer, READ its memory, poll. Nothing
// else.
//
// Threading: one thread drives a fabric (connect, submit, poll, disconnect). Memory is registered
// and released on any thread, since hundreds of gigabytes take seconds. A transport whose hardware
// does not serve reads by itself serves them on a thread of its own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "base/strong.h"
#include "weightcast/result.h"

namespace weightcast::fabric {

using Incarnation = std::array<std::byte, 16>;  // of a peer process; new with every start
using LinkId = Strong<struct LinkTag, std::uint32_t>;
using ReadTag = Strong<struct ReadTagTag, std::uint64_t>;
using RegionKey = std::vector<std::byte>;  // opaque outside the transport

inline constexpr std::size_t kRegionKeyBytesMax = 1024;

// Memory to register. Borrowed: the owner keeps it alive until the Region is gone.
struct Memory {
    std::span<std::byte> bytes;
    int fd = -1;                  // memfd or file that these bytes are a shared mapping of, or -1
    std::uint64_t fd_offset = 0;  // of bytes[0]
    bool fd_may_shrink = false;   // an ordinary file: a peer must pread it and not map it
    bool cuda = false;            // CUDA device memory: to the host `bytes` is an address only
};

// For the registering of every fabric. Errors: invalid_input (no bytes, a descriptor is missing),
// unavailable (GPU memory, unless `cuda` is allowed).
Result<void> check_memory(const char* fabric, const Memory& memory, bool cuda_allowed = false);

// What a remote side may do. Holders never grant more than READ.
enum class Access : std::uint8_t {
    local,        // destination of our own reads
    remote_read,  // also readable by peers that hold the key
};

// Registered memory. Destroying it revokes the key first: once the destructor has returned no peer
// can read through it, and reads that target it locally must have completed.
class Region {
  public:
    virtual ~Region() = default;
    virtual std::span<std::byte> bytes() const = 0;
    // Empty for Access::local.
    virtual RegionKey key() const = 0;
};

enum class ReadStatus : std::uint8_t {
    ok,
    unreachable,    // no connection, or it broke
    timed_out,      // no progress within FabricOptions::progress_ms_max
    stale_peer,     // another incarnation answers at this address
    access_denied,  // unknown key, or a range outside its region
    remote_fault,   // the holder cannot read its own memory (a truncated file)
    cancelled,      // disconnect() was called
};
const char* to_string(ReadStatus status) noexcept;

// One READ. Spans and keys are borrowed until its completion is polled.
struct Read {
    LinkId link;
    std::span<const std::byte> key;
    std::uint64_t remote_offset = 0;
    Region* local = nullptr;
    std::uint64_t local_offset = 0;
    std::uint64_t bytes = 0;  // > 0
    ReadTag tag;
    // Not empty: the key of another region of the same peer. The holder starts the read once bit
    // `gate_bit` of that region is set: a read of what the holder has not got yet. Bit i is bit
    // i % 8 of byte i / 8. Reads behind it on the link do not wait for it.
    // REQUIRES: Fabric::can_wait()
    std::span<const std::byte> gate = {};
    std::uint64_t gate_bit = 0;
    // Of reads of several readers that wait for one bit, the holder starts those with the least
    // turn first, if it can.
    std::uint32_t turn = 0;
};

// Exactly one comes for each submitted Read, in any order. Unless `ok`, the local bytes are
// unspecified, but the fabric no longer writes them.
struct Completion {
    ReadTag tag;
    ReadStatus status = ReadStatus::ok;
};

struct PeerAddress {
    std::string address;  // as exported by the peer's Fabric::address()
    Incarnation incarnation{};
};

class Fabric {
  public:
    // Completes what is outstanding as cancelled, without telling, and stops serving.
    virtual ~Fabric() = default;

    // "memory", "shm", "tcp", "ucx", "verbs".
    virtual const char* name() const = 0;
    // True if reads cost the holder's CPU.
    virtual bool emulated() const = 0;
    // Where peers reach this fabric: printable ASCII without spaces, at most 512 bytes.
    virtual std::string address() const = 0;
    // False if the address is of another fabric, host or namespace that this one cannot reach.
    // Says nothing about whether anyone answers there.
    virtual bool can_reach(const std::string& address) const = 0;

    // Thread-safe, and so is the destruction of a Region.
    // Errors: invalid_input, unavailable (this kind of memory), no_space (naming the limit and how
    // to raise it), io.
    virtual Result<std::unique_ptr<Region>> register_memory(const Memory& memory,
                                                            Access access) = 0;

    // Never blocks. Reads may be submitted at once; if the peer cannot be reached, or is another
    // incarnation, they complete with that status. A link that failed stays failed: disconnect it
    // and connect anew.
    virtual LinkId connect(const PeerAddress& peer) = 0;
    // Outstanding reads of the link complete as cancelled. The id is never used again.
    virtual void disconnect(LinkId link) = 0;
    // Why the link failed, as a sentence; empty while it works.
    virtual std::string link_error(LinkId link) const = 0;

    // Starts reads. Never blocks, never fails: errors come as completions.
    virtual void submit(std::span<const Read> reads) = 0;
    // Whether reads may have a gate. A read that waits for its gate makes no progress, which is no
    // failure as long as its holder says that it is there.
    virtual bool can_wait() const { return false; }
    // Bits of a region were set that peers' reads may wait for; may send what they ask for. Never
    // blocks, thread-safe.
    virtual void gates_opened() {}
    // Makes progress; writes up to completions.size() completions and returns how many. Never
    // blocks.
    virtual std::size_t poll(std::span<Completion> completions) = 0;
    // A descriptor to wait on with POLLIN until poll() may have something to do; -1 if the fabric
    // completes all its work inside poll(), so that waiting with reads outstanding is never needed.
    virtual int wait_fd() const = 0;
    // Milliseconds after which poll() must be called although wait_fd() is not readable
    // (a progress deadline); negative: none.
    virtual int wait_ms() const { return -1; }

    // The peer's region itself, mapped read-only without a copy, where both sides share memory.
    // Waits for the peer, at most FabricOptions::progress_ms_max.
    // Errors: unavailable (this fabric, link or region cannot be mapped).
    virtual Result<Mapping> map_region(LinkId link, std::span<const std::byte> key);

    // Bytes/s of the ports that this fabric reads through, all together; 0: not known.
    virtual std::uint64_t port_rate() const { return 0; }
    // Bytes that peers have read from us; 0 where the transport cannot know.
    virtual std::uint64_t bytes_served() const = 0;
};

struct FabricOptions {
    Incarnation incarnation{};               // of this process
    std::string listen = "127.0.0.1";        // address to serve on, where it applies
    std::uint32_t progress_ms_max = 2000;    // a request without progress for so long has failed
    std::uint64_t serve_rate_max = 0;        // bytes/s to all peers together; 0: no cap
    std::uint32_t connections_per_link = 1;  // tcp
    std::string congestion_control;          // tcp; e.g. "bbr", empty: the system's
    std::vector<std::string> devices;  // verbs: NAME[:PORT][@GID]; empty: those that `listen` names
    std::uint8_t traffic_class = 0;    // verbs: of RoCE packets, DSCP in the upper six bits
    std::string cuda_library = "libcuda.so.1";  // verbs: CUDA's driver, for GPU memory
    bool out_of_band = false;                   // verbs: never connect by librdmacm
    std::uint64_t slice_bytes = 1U << 30U;      // verbs: registers in slices of at least so much
};

}  // namespace weightcast::fabric
