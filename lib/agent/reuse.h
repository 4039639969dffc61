// What a new version has in common with versions that this process pulled before.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "agent/destination.h"
#include "agent/held_version.h"
#include "model/manifest.h"

namespace weightcast::agent {

using HeldVersions = std::vector<std::shared_ptr<HeldVersion>>;

// By artifact of `manifest`: an open file of one of `held` that should have the same bytes; else
// -1.
std::vector<int> same_files(const model::Manifest& manifest, const HeldVersions& held);

std::uint64_t bytes_of(const model::Layout& layout, std::span<const std::uint32_t> chunks);

// Stores each of `chunks` that `make` fills with the right bytes in `to`; the digest decides.
// `make` is called on all cores, with a chunk and its place or a buffer, and may say false. Gives
// the chunks that were stored, ascending. Errors: those of Destination::store().
using MakeChunk = std::function<bool(std::uint32_t chunk, std::span<std::byte> bytes)>;
Result<std::vector<std::uint32_t>> make_chunks(Destination& to, const model::Manifest& manifest,
                                               std::span<const std::uint32_t> chunks,
                                               const MakeChunk& make);

// Makes each of the `missing` chunks that one of `held` has, wherever it lies there, at the speed
// of memory. As make_chunks().
Result<std::vector<std::uint32_t>> take_over(Destination& to, const model::Manifest& manifest,
                                             std::span<const std::uint32_t> missing,
                                             const HeldVersions& held);

}  // namespace weightcast::agent
