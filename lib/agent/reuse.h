// What a new version has in common with versions that this process pulled before.
#pragma once

#include <cstdint>
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

// Stores each of the `missing` chunks that one of `held` has, wherever it lies there, in `to`. The
// digest decides: bytes that are not what they should be are left out. On all cores, at the speed
// of memory. Gives the chunks that were stored, ascending. Errors: those of Destination::store().
Result<std::vector<std::uint32_t>> take_over(Destination& to, const model::Manifest& manifest,
                                             std::span<const std::uint32_t> missing,
                                             const HeldVersions& held);

}  // namespace weightcast::agent
