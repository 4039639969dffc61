// The files that a publisher offers: found, opened, mapped, and watched for changes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "weightcast/result.h"

namespace weightcast::agent {

struct SourceFile {
    std::string path;  // as an artifact
    UniqueFd fd;
    Mapping pages;  // never touched by our own code: the file may be truncated
    std::uint64_t bytes = 0;
    bool executable = false;
    ::timespec modified{};
};

class SourceFiles {
  public:
    // A directory contributes its whole tree, with paths relative to it; a file its name.
    // Errors: not_found, invalid_input (a path twice, or one that cannot be an artifact), io.
    static Result<std::shared_ptr<SourceFiles>> open(std::span<const std::string> paths);

    std::size_t count() const { return files_.size(); }
    const SourceFile& file(std::size_t index) const { return files_[index]; }
    // A small text file whole. Errors: invalid_input (larger than 100 MB), io.
    Result<std::string> read_text(std::size_t index) const;
    // Errors: corrupt, naming the file whose size or time of change is not what it was.
    Result<void> check_unchanged() const;

  private:
    Result<void> add(const std::string& file, const std::string& path);
    Result<void> add_tree(const std::string& directory);

    std::vector<SourceFile> files_;  // by path
};

}  // namespace weightcast::agent
