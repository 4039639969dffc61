// What outlives the registry: versions, channels with their history, and manifests. Thread-bound.
//
// A write that failed for another reason than a full disk leaves it unknown what is on the disk:
// from then on every write gives Code::unavailable, and the registry must stop acknowledging.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/digest.h"
#include "registry/change.h"
#include "weightcast/result.h"

namespace weightcast::registry {

struct StoreOptions {
    std::string directory;        // made if missing, then for its owner only
    std::uint64_t bytes_max = 0;  // of the database file; 0: as much as the disk has
};

struct StoreStats {
    std::uint64_t commits = 0;         // since it was opened
    std::uint64_t changes = 0;         // since it was opened
    std::uint64_t manifest_bytes = 0;  // put since it was opened
};

class Store {
  public:
    virtual ~Store() = default;

    // Made with the store, 32 hexadecimal digits.
    virtual const std::string& cluster_id() const = 0;
    // What to apply to an empty State, in order. The history of channels is left out.
    virtual Result<std::vector<Change>> load() = 0;
    // All of them or none; on the disk when it returns.
    // Errors: no_space (names the path; works again once there is room), io, unavailable.
    virtual Result<void> commit(std::span<const Change> changes) = 0;
    // All moves of a channel, oldest first, at most the last `count_max`.
    virtual Result<std::vector<ChannelMoved>> history(const std::string& model,
                                                      const std::string& channel,
                                                      std::size_t count_max) = 0;
    // The caller has checked that `name` is the digest. On the disk when it returns.
    // Errors: as commit.
    virtual Result<void> put_manifest(const model::Sha256& name,
                                      std::span<const std::byte> encoded) = 0;
    // Errors: not_found, io.
    virtual Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) = 0;
    // The size of a manifest. Errors: not_found, io.
    virtual Result<std::uint64_t> manifest_bytes(const model::Sha256& name) = 0;

    virtual StoreStats stats() const = 0;
    // Whether a write failed for good.
    virtual bool failed() const = 0;
};

// Forgets everything with the process.
std::unique_ptr<Store> make_memory_store();

// Errors: conflict (another registry has it open), corrupt (not ours, or of a newer version),
// no_space, io.
Result<std::unique_ptr<Store>> open_sqlite_store(const StoreOptions& options);

}  // namespace weightcast::registry
