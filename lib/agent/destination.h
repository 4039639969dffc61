// Where a pulled version's bytes go: files that appear whole or not at all, or memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/placed_memory.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "model/manifest.h"
#include "weightcast/result.h"

namespace weightcast::agent {

class Destination {
  public:
    virtual ~Destination() = default;

    // Chunks that are in place and verified already, ascending.
    virtual const std::vector<std::uint32_t>& present() const = 0;
    // Of present(): bytes that are another version's, shared.
    virtual std::uint64_t bytes_shared() const { return 0; }
    // Where a chunk may be read to directly; empty: read it elsewhere and store() it.
    virtual std::span<std::byte> in_place(std::uint32_t chunk) = 0;
    // Takes a verified chunk. Thread-safe for different chunks.
    // Errors: no_space, io; both name the file. What was stored before is kept.
    virtual Result<void> store(std::uint32_t chunk, std::span<const std::byte> bytes) = 0;
    // What can be served, valid as long as this object. Only chunks that were stored hold anything.
    virtual std::vector<PlacedMemory> memory() const = 0;
    // The pull has ended before commit(): another one may have the place, while what is here
    // already can still be read.
    virtual void abandon() {}
    // Makes the version visible; all wanted chunks were stored. Errors: io, no_space.
    virtual Result<void> commit() = 0;
};

struct DirectoryOptions {
    bool replace = false;  // the directory may hold other files, which commit() removes
    bool sync = false;     // commit() waits until the bytes are on the disk
    std::vector<std::uint32_t> tensors;  // not empty: only these, as one model.safetensors
    std::vector<std::uint32_t> wanted;   // the chunks that will come, ascending
    // By artifact: an open file that should have the same bytes, to be shared, or -1; or nothing.
    std::vector<int> same_files;
};

// Stages in DIR/.weightcast-partial with a journal of verified chunks, so that a pull that was
// killed goes on where it was. A chunk of an earlier attempt, or of a file that is in DIR already,
// counts if its digest is right. A file that is the same in another version is cloned where the
// file system can, else linked. commit() swaps DIR for the staged tree in one rename; where DIR
// cannot be swapped (a mount point) it moves file after file, and a later attempt completes it.
//
// Errors: invalid_input (DIR holds other files and not `replace`), conflict (another pull into DIR
// is running), no_space (with the path and the bytes it needs), io.
Result<std::unique_ptr<Destination>> open_directory(const std::string& directory,
                                                    std::shared_ptr<const model::Manifest> manifest,
                                                    const model::Sha256& manifest_name,
                                                    const DirectoryOptions& options);

// Anonymous shared memory that spans the version's address space; chunks are read in place.
class MemoryDestination final : public Destination {
  public:
    // Overwrites an arena, if there is one that is large enough, else makes another one. `there`
    // has the digests of the chunks that were verified in it; they are not verified again, since
    // nobody else writes there. Those that are the same in the new version stay. Errors: no_space
    // with the amount. REQUIRES: nobody reads the arena
    static Result<std::unique_ptr<MemoryDestination>> create_in(
        std::shared_ptr<SharedMemory> arena, std::span<const std::optional<model::Digest>> there,
        std::shared_ptr<const model::Manifest> manifest);
    const std::shared_ptr<SharedMemory>& arena() const { return arena_; }

    const std::vector<std::uint32_t>& present() const override { return present_; }
    std::uint64_t bytes_shared() const override;
    std::span<std::byte> in_place(std::uint32_t chunk) override;
    Result<void> store(std::uint32_t chunk, std::span<const std::byte> bytes) override;
    std::vector<PlacedMemory> memory() const override;
    Result<void> commit() override { return success(); }

    // The bytes of a piece of an artifact.
    std::span<const std::byte> view(std::uint32_t artifact, std::uint64_t offset,
                                    std::uint64_t bytes) const;

  private:
    void find_present(std::span<const std::optional<model::Digest>> there);

    std::shared_ptr<const model::Manifest> manifest_;
    std::shared_ptr<SharedMemory> arena_;
    std::vector<std::uint32_t> present_;
};

}  // namespace weightcast::agent
