// A process that publishes, pulls and serves versions of models. Thread-safe throughout.
//
//   auto node = Node::start({.registry = url, .open_fabrics = transport::open_fabrics});
//   auto report = node.value()->pull({.model = "llama3", .directory = "./copy"});
//
// Bytes are bytes, rates bytes/s, times seconds unless the name says otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "weightcast/result.h"

namespace weightcast {

class TensorSource;
class WeightSet;
struct WeightSetOptions;

namespace fabric {
class Fabric;
struct FabricOptions;
}  // namespace fabric

// Opens the transports of `names`, and those of `besides` that work here; all that work if neither
// names one: transport::open_fabrics.
using FabricOpener = Result<std::vector<std::unique_ptr<fabric::Fabric>>> (*)(
    std::span<const std::string> names, std::span<const std::string> besides,
    const fabric::FabricOptions& options);

struct NodeOptions {
    std::string registry;    // http://HOST:PORT
    std::string token_file;  // with the registry's bearer token; empty: none
    std::string name;        // unique among the living; empty: host, pid and a random part
    bool take_over = false;  // replace a living node of this name
    std::string listen = "127.0.0.1";          // address on which peers reach the transports
    std::vector<std::string> fabrics;          // these transports must work
    std::vector<std::string> fabrics_besides;  // these are used if they work; both empty: all
    std::vector<std::string> devices;  // RDMA: NAME[:PORT][@GID]; empty: those with `listen`
    std::uint8_t traffic_class = 0;    // RDMA: of RoCE packets, DSCP in the upper six bits
    bool out_of_band = false;          // RDMA: connect without librdmacm
    std::uint64_t serve_rate_max = 0;  // to all readers together; 0: no cap
    std::uint64_t port_rate = 0;       // of this host's network port; 0: ask the system
    std::map<std::string, std::string> labels;  // "rack": so that plans keep to a rack
    FabricOpener open_fabrics = nullptr;
};

struct PublishOptions {
    std::string model;
    std::uint64_t version = 0;            // 0: the newest if its bytes are the same, else the next
    std::string channel = "stable";       // moved to this version if it is new; empty: none
    std::uint64_t chunk_bytes = 1 << 20;  // a power of two, 64 KiB to 16 MiB
    // For files: those of an earlier version. Publishes, beside the version, what changed since, if
    // that is much less. Tensors: SourceOptions::deltas.
    std::vector<std::string> deltas_from;
};

struct SourceOptions {
    // Publish, beside each version, what changed since the one before, if that is much less. Costs
    // a copy of the tensors in memory.
    bool deltas = false;
};

// A tensor in this process's memory. The bytes must stay as they are, and where they are, until the
// node is gone or withdraw() has returned.
struct TensorView {
    std::string name;
    std::string dtype;                 // as safetensors names it, e.g. "BF16"
    std::vector<std::uint64_t> shape;  // outermost dimension first
    std::span<const std::byte> bytes;
};

struct Published {
    std::string model;
    std::uint64_t version = 0;
    std::uint64_t bytes = 0;
    std::uint64_t generation = 0;  // of the channel; 0: it was not moved
    bool created = false;          // false: the same bytes were published before
    std::string manifest;          // SHA-256, hexadecimal
    double registration_seconds = 0;
    std::uint64_t delta_bytes = 0;  // of what changed since an earlier version; 0: not published
    // Of a TensorSource: replicas may still have been reading the version before, and cannot any
    // more: they are slower than this publisher, or the registry could not tell.
    bool cut_off = false;
};

struct WithdrawOptions {
    // Nobody new is sent here; those that read may finish so long, or turn to others, and are
    // refused then.
    std::chrono::milliseconds readers_wait{0};
    bool even_last = false;  // also if nobody else has all of it, and a channel names it
};

struct HolderShare {
    std::string peer;
    std::string fabric;
    bool emulated = false;  // reads cost the holder's CPU
    std::uint64_t bytes = 0;
};

struct PullProgress {
    std::uint64_t bytes_total = 0;  // wanted
    std::uint64_t bytes_done = 0;   // verified, earlier attempts included
    std::uint32_t holders = 0;      // being read from
    double seconds = 0;
};

struct PullOptions {
    std::string model;
    std::string reference;             // "@VERSION", ":CHANNEL"; empty: channel "stable"
    std::string directory;             // where the files go
    std::vector<std::string> tensors;  // globs; not empty: only these tensors, in one file
    std::vector<TensorView> expected;  // name, dtype and shape that must be so, or nothing is read
    bool replace = false;              // the directory's other files may be lost
    bool sync = false;                 // wait until the bytes are on the disk
    bool serve = true;                 // let peers read from us, while pulling and afterwards
    bool deltas = true;  // where a publisher has them: move what changed since a version we have
    std::vector<std::string> fabrics;  // only these
    double link_rate_max = 0;     // of this host's port, for the lower bound; 0: ask the system
    std::uint64_t bytes_max = 0;  // of the version; 0: any. A larger one is refused before a byte
    std::uint32_t no_holder_ms_max = 30000;  // without any progress or holder before giving up
    std::function<void(const PullProgress&)> on_progress;  // on the calling thread, 5 a second
    std::stop_token stop;  // a request to stop ends the pull with Code::cancelled
};

struct PullReport {
    std::string model;
    std::uint64_t version = 0;
    std::uint64_t generation = 0;      // of the channel that named it, 0 if none
    std::uint64_t bytes = 0;           // wanted
    std::uint64_t bytes_read = 0;      // from peers, repeated reads included
    std::uint64_t bytes_reused = 0;    // that this node had, as part of versions it pulled before
    std::uint64_t bytes_patched = 0;   // that it made from those and from deltas
    std::uint64_t delta_bytes = 0;     // of bytes_read: deltas
    std::uint32_t corrupt_chunks = 0;  // that were read again
    std::uint32_t holders_lost = 0;
    double seconds = 0;                // from the call to the commit
    double registration_seconds = 0;   // of the destination with the transports, for serving it
    double bound_seconds = 0;          // that no way of moving bytes_read could beat
    double ratio = 0;                  // seconds / bound_seconds; 0 if the bound is 0
    std::string limited_by;            // the cut that sets the bound
    std::vector<HolderShare> holders;  // most bytes first
};

// Keeps a directory at what a channel names: DIR/v7, DIR/v8, …, each with a version's files, and
// the symbolic link DIR/current, which moves to a new one at once when every byte of it was
// verified. Files that are the same in the version before are shared with it, chunks that it has
// are copied.
struct FollowOptions {
    PullOptions pull;  // reference: "" or ":CHANNEL"; `replace` is not used, it serves in any case
    std::uint32_t versions_kept = 2;  // at least 1; the last copy of what a channel names stays too
    std::function<void(const PullReport&)> on_flip;  // on the calling thread, as are all of these
    std::function<void(const Error&)> on_trouble;    // it is tried again
};

// A version in this process's memory. Keeps its bytes alive. Destroy it before its node.
class PulledMemory {
  public:
    virtual ~PulledMemory() = default;
    virtual const PullReport& report() const = 0;
    virtual std::vector<TensorView> tensors() const = 0;                   // by name
    virtual Result<TensorView> tensor(const std::string& name) const = 0;  // Errors: not_found
};

class Node {
  public:
    // Errors: those of the registry (unavailable, refused, conflict) and of the transports.
    static Result<std::unique_ptr<Node>> start(const NodeOptions& options);
    // Stops serving and leaves the registry. REQUIRES: no call of this node is running
    virtual ~Node() = default;
    // Publishes a directory's tree, or single files, and serves it. Every byte is read once.
    // Errors: invalid_input (naming file, tensor, offset), conflict (the version has other bytes).
    virtual Result<Published> publish(std::span<const std::string> paths,
                                      const PublishOptions& options) = 0;
    // Publishes tensors where they lie, without a copy, as one "model.safetensors".
    virtual Result<Published> publish(std::span<const TensorView> tensors,
                                      const PublishOptions& options) = 0;
    // Tensors that are published again and again as they change in place
    // (weightcast/tensor_source.h). Errors: invalid_input, no_space, io.
    virtual Result<std::unique_ptr<TensorSource>> open_source(
        std::span<const TensorView> tensors, const SourceOptions& options = {}) = 0;
    // Stops serving a version. Errors: not_found; conflict (this is the last whole copy of what a
    // channel names).
    virtual Result<void> withdraw(const std::string& model, std::uint64_t version,
                                  const WithdrawOptions& options = {}) = 0;

    // Pulls into a directory, which gets all files at once when every byte was verified. A pull
    // that failed or was killed goes on where it was. Errors: not_found, unavailable (no holder),
    // no_space, invalid_input, conflict, cancelled.
    virtual Result<PullReport> pull(const PullOptions& options) = 0;
    // The same into memory; `directory`, `replace` and `sync` are not used.
    virtual Result<std::unique_ptr<PulledMemory>> pull_memory(const PullOptions& options) = 0;
    // A holder's own pages on this host, verified, mapped read-only, without a copy. They are the
    // holder's: it must not overwrite them while they are used. Errors: also unavailable (no such).
    virtual Result<std::unique_ptr<PulledMemory>> map_memory(const PullOptions& options) = 0;
    // Follows a channel until FollowOptions::pull.stop asks it to stop. A version that is
    // superseded while it is pulled is dropped; a lower generation is never gone back to. Errors:
    // invalid_input, conflict (the directory is followed already), io, refused.
    virtual Result<void> follow_directory(const FollowOptions& options) = 0;
    // Follows a channel in memory (weightcast/weight_set.h). Errors: invalid_input.
    virtual Result<std::unique_ptr<WeightSet>> follow_memory(const WeightSetOptions& options) = 0;
    virtual void cancel_pulls() = 0;  // they fail with Code::cancelled
    virtual const std::string& name() const = 0;
    // That peers have read from this node, as far as the transports know.
    virtual std::uint64_t bytes_served() const = 0;
};

}  // namespace weightcast
