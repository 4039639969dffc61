// Files without surprises: whole reads and writes, paths that stay beneath a directory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "weightcast/result.h"

namespace weightcast {

// `name` is for messages. Errors: as system_error says.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0644);
Result<std::uint64_t> file_bytes(int fd, const std::string& name);
// All of `bytes`; the end of the file within them is an error. Errors: io, invalid_input.
Result<void> read_exactly(int fd, std::span<std::byte> bytes, std::uint64_t offset,
                          const std::string& name);
Result<void> write_exactly(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                           const std::string& name);

// Opens a relative '/'-separated path beneath a directory and follows no symbolic link on the way,
// not at its end either. With O_CREAT in `flags` missing directories are made.
// REQUIRES: model::check_artifact_path(path) or a path of our own
Result<UniqueFd> open_beneath(int directory, const std::string& path, int flags,
                              unsigned mode = 0644);

// Gives a file of `bytes` bytes its room on the disk, if the file system can. In memory (tmpfs) it
// only looks whether there is room, since there the kernel would fill all of it with zeros first.
// Errors: no_space.
Result<void> reserve_file(int fd, std::uint64_t bytes, const std::string& name);

// Removes a directory and all below it, following no symbolic link; nothing if it is not there.
Result<void> remove_tree(const std::string& path);

}  // namespace weightcast
