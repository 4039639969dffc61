// Makes a manifest and serving material from files or from memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "agent/held_version.h"
#include "weightcast/node.h"

namespace weightcast::agent {

// A version that has its bytes and digests, but no number yet.
struct Draft {
    model::Manifest manifest;  // version 0
    std::vector<PlacedMemory> memory;
    std::shared_ptr<void> owner;
    std::function<Result<void>()> check_source;
    std::shared_ptr<Registration> registration;  // of `memory`, if there is one already
};

// Scans, checks and digests files, on all cores. A symbolic link to a file counts as the file; one
// to a directory is left out with a warning.
// Errors: invalid_input (a bad safetensors file: which, where and why), not_found, io.
Result<Draft> draft_from_files(std::span<const std::string> paths, const PublishOptions& options);

// Tensors where they lie, as one safetensors artifact behind a header of our own.
class TensorMemory : public std::enable_shared_from_this<TensorMemory> {
  public:
    // Errors: invalid_input (dtype, shape and size do not fit, a name twice).
    static Result<std::shared_ptr<TensorMemory>> make(std::span<const TensorView> tensors);

    // Valid as long as this object; the tensors are not its own.
    const std::vector<PlacedMemory>& memory() const { return memory_; }
    // Digests the tensors as they are now, on all cores. Of those that `changed` does not name the
    // digests are as in `before`, the manifest of the draft before; if either is not given, all are
    // computed. Errors: invalid_input (options), not_found (a name).
    Result<Draft> draft(const PublishOptions& options, const model::Manifest* before = nullptr,
                        const std::vector<std::string>* changed = nullptr) const;
    // Copies a range of the artifact, header included, as it is now.
    void read(std::uint64_t offset, std::span<std::byte> bytes) const;

  private:
    Result<std::vector<char>> chunks_to_digest(const model::Manifest& manifest,
                                               const model::Manifest& before,
                                               const std::vector<std::string>& changed) const;
    // Calls `use` with the pieces of memory that a range of the artifact lies in, in order.
    template <typename Use>
    void each_piece(std::uint64_t offset, std::uint64_t bytes, const Use& use) const;

    SharedMemory header_;
    std::vector<std::span<const std::byte>> pieces_;  // of the artifact, in order
    std::vector<std::uint64_t> offsets_;              // of each piece
    std::vector<PlacedMemory> memory_;
    std::vector<model::TensorRecord> tensors_;  // by name
    std::uint64_t bytes_ = 0;                   // of the artifact
};

// One opaque artifact. Errors: invalid_input (options).
Result<Draft> draft_from_bytes(const std::string& path, std::shared_ptr<SharedMemory> bytes,
                               const PublishOptions& options);

// Gives the draft its number and its name.
NamedManifest name_manifest(model::Manifest manifest, std::uint64_t version);

}  // namespace weightcast::agent
