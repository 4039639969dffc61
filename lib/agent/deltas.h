// Updates by what changed: sets of sparse differences, published beside a version as a version of
// MODEL.deltas (docs/delta.md, "Sets").
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/destination.h"
#include "agent/held_version.h"
#include "base/mapping.h"
#include "delta/delta_set.h"
#include "model/manifest.h"

namespace weightcast::agent {

inline constexpr const char* kDeltasSuffix = ".deltas";
inline constexpr std::size_t kDeltasOffered = 8;  // by a publisher, the newest

std::string deltas_artifact(std::uint64_t from_version);
// The earlier version that a manifest of MODEL.deltas says; nothing if it is none.
std::optional<std::uint64_t> deltas_from(const model::Manifest& manifest);

// Gives a chunk as it is now: in `buffer`, which is as long, or elsewhere. Called on all cores.
using ReadChunk = std::function<Result<std::span<const std::byte>>(std::uint32_t chunk,
                                                                   std::span<std::byte> buffer)>;

using UseChunk = std::function<void(std::uint32_t chunk, std::span<const std::byte> bytes)>;

// The set that leads from one version to another; nothing if their layouts differ, or if it saves
// too little. `compared`, if given, gets the bytes of each chunk that differs, as they are now. On
// all cores. Errors: those of reading.
Result<std::optional<std::vector<std::byte>>> make_delta_set(const model::Manifest& before,
                                                             const model::Manifest& now,
                                                             const ReadChunk& read_before,
                                                             const ReadChunk& read_now,
                                                             const UseChunk& compared = {});

// A publisher's copy of the version before, to compare with: what is in place has changed since.
class DeltaBase {
  public:
    // Compares `now` with the copy, and makes the copy that of `now`. Gives the set; nothing if
    // there was no copy, and as make_delta_set(). Errors: no_space, those of reading.
    Result<std::optional<std::vector<std::byte>>> update(const model::Manifest& now,
                                                         const ReadChunk& read);

  private:
    std::optional<model::Manifest> before_;
    SharedMemory copy_;  // the version's address space
};

// For publishers of tensors: PublishOptions::deltas_from was given.
Error deltas_of_files_only();

// Makes chunks of a version from those of an earlier one, as make_chunks() in reuse.h. `chain` has
// the sets from the one that starts at `base` to the one that ends at `manifest`; chunks that none
// of them has are left out.
Result<std::vector<std::uint32_t>> apply_deltas(Destination& to, const model::Manifest& manifest,
                                                std::span<const std::uint32_t> missing,
                                                const HeldVersion& base,
                                                std::span<const delta::Set> chain);

}  // namespace weightcast::agent
