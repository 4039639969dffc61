// How a staged version becomes visible.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "agent/directory_destination.h"
#include "base/file.h"
#include "base/log.h"
#include "model/safetensors.h"

namespace weightcast::agent {
namespace {

namespace fs = std::filesystem;

bool cannot_swap(int code) {
    constexpr std::array kCodes = {EBUSY, EINVAL, EXDEV, EACCES, EPERM, ENOSYS, EROFS};
    return std::find(kCodes.begin(), kCodes.end(), code) != kCodes.end();
}

}  // namespace

Result<void> DirectoryDestination::commit() {
    if (!committed_) {
        if (!options_.tensors.empty()) WEIGHTCAST_CHECK(write_subset());
        if (options_.sync) WEIGHTCAST_CHECK(sync_stage());
        WEIGHTCAST_TRY(const bool swapped, swap_directory());
        if (!swapped) WEIGHTCAST_CHECK(move_files());
        committed_ = true;
    }
    lock_.reset();  // What is served from here on are the open files.
    return success();
}

// Replaces the staged files by one that holds the chosen tensors alone. The old ones stay open, so
// they can be served on.
Result<void> DirectoryDestination::write_subset() {
    std::vector<model::TensorEntry> entries;
    std::vector<std::uint32_t> order = options_.tensors;
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        const auto& x = manifest_->tensors[a];
        const auto& y = manifest_->tensors[b];
        return std::pair(x.artifact, x.offset) < std::pair(y.artifact, y.offset);
    });
    for (const std::uint32_t index : order) {
        const model::TensorRecord& tensor = manifest_->tensors[index];
        entries.push_back({tensor.name, tensor.dtype, tensor.shape, 0, tensor.bytes});
    }
    WEIGHTCAST_TRY(const std::vector<std::byte> header,
                   model::write_safetensors_header(entries, {{"format", "pt"}}));
    const std::string files = partial_ + "/files";
    const std::string subset = partial_ + "/subset";
    WEIGHTCAST_CHECK(remove_tree(subset));
    if (::mkdir(subset.c_str(), 0755) != 0) {
        return system_error(errno, fmt::format("cannot make {}", subset));
    }
    const std::string name = subset + "/model.safetensors";
    WEIGHTCAST_TRY(const UniqueFd out, open_file(name, O_WRONLY | O_CREAT | O_EXCL));
    WEIGHTCAST_CHECK(write_exactly(out.get(), header, 0, name));
    std::vector<std::byte> buffer(4U << 20U);
    for (std::size_t i = 0; i < order.size(); ++i) {
        const model::TensorRecord& tensor = manifest_->tensors[order[i]];
        for (std::uint64_t done = 0; done < tensor.bytes;) {
            const auto piece = std::span(buffer).first(
                std::min<std::uint64_t>(buffer.size(), tensor.bytes - done));
            WEIGHTCAST_CHECK(read_exactly(files_[tensor.artifact].get(), piece,
                                          tensor.offset + done, tensor.name));
            WEIGHTCAST_CHECK(
                write_exactly(out.get(), piece, header.size() + entries[i].offset + done, name));
            done += piece.size();
        }
    }
    // Only now, with the subset complete, what it was made from may go.
    WEIGHTCAST_CHECK(remove_tree(files));
    if (::rename(subset.c_str(), files.c_str()) != 0) {
        return system_error(errno, fmt::format("cannot move {} to {}", subset, files));
    }
    return success();
}

Result<void> DirectoryDestination::sync_stage() const {
    WEIGHTCAST_TRY(const UniqueFd stage, open_file(partial_ + "/files", O_RDONLY | O_DIRECTORY));
    if (::syncfs(stage.get()) != 0) {
        return system_error(errno, fmt::format("cannot write {} to disk", partial_));
    }
    return success();
}

// One atomic rename makes the staged tree the directory. False if this directory cannot be swapped.
Result<bool> DirectoryDestination::swap_directory() {
    const std::string files = partial_ + "/files";
    if (::rename(files.c_str(), swap_.c_str()) != 0) {
        if (cannot_swap(errno)) return false;
        return system_error(errno, fmt::format("cannot move {} to {}", files, swap_));
    }
    struct stat status {};
    if (::fstat(lock_.get(), &status) == 0) ::chmod(swap_.c_str(), status.st_mode & 07777U);
    if (::renameat2(AT_FDCWD, swap_.c_str(), AT_FDCWD, directory_.c_str(), RENAME_EXCHANGE) == 0) {
        if (const auto removed = remove_tree(swap_); !removed) {
            log(LogLevel::warning, "{}", removed.error().message);
        }
        return true;
    }
    const int code = errno;
    if (::rename(swap_.c_str(), files.c_str()) != 0) {
        return system_error(errno, fmt::format("cannot move {} back", swap_));
    }
    if (cannot_swap(code)) return false;
    return system_error(code, fmt::format("cannot swap {} in", directory_));
}

// For a directory that cannot be swapped. An attempt that dies on the way is completed by the next:
// files that were moved count as present there.
Result<void> DirectoryDestination::move_files() {
    std::error_code error;
    std::vector<fs::path> old;
    for (auto entry = fs::directory_iterator(directory_, error);
         !error && entry != fs::directory_iterator(); entry.increment(error)) {
        if (entry->path().filename() != ".weightcast-partial") old.push_back(entry->path());
    }
    for (const fs::path& path : old) {
        if (options_.replace) WEIGHTCAST_CHECK(remove_tree(path.string()));
    }
    const fs::path files = partial_ + "/files";
    std::vector<fs::path> staged;
    for (auto entry = fs::recursive_directory_iterator(files, error);
         !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
        std::error_code ignored;
        if (entry->is_directory(ignored)) continue;
        staged.push_back(entry->path().lexically_relative(files));
    }
    for (const fs::path& path : staged) {
        if (error) break;
        const fs::path target = fs::path(directory_) / path;
        fs::create_directories(target.parent_path(), error);
        if (!error) fs::rename(files / path, target, error);
    }
    if (error) {
        return system_error(error.value(), fmt::format("cannot move files to {}", directory_));
    }
    return remove_tree(partial_);
}

}  // namespace weightcast::agent
