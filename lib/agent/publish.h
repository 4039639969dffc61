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
};

// Scans, checks and digests files, on all cores. A symbolic link to a file counts as the file; one
// to a directory is left out with a warning.
// Errors: invalid_input (a bad safetensors file: which, where and why), not_found, io.
Result<Draft> draft_from_files(std::span<const std::string> paths, const PublishOptions& options);

// Errors: invalid_input (dtype, shape and size do not fit, a name twice).
Result<Draft> draft_from_memory(std::span<const TensorView> tensors, const PublishOptions& options);

// Gives the draft its number and its name.
NamedManifest name_manifest(model::Manifest manifest, std::uint64_t version);

}  // namespace weightcast::agent
