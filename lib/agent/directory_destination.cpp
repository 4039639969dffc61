#include "agent/directory_destination.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/worker_pool.h"

namespace weightcast::agent {
namespace {

namespace fs = std::filesystem;

// magic, manifest name, then a bitmap of chunks
constexpr std::size_t kJournalHeaderBytes = 40;
// Of chunks that the journal may lack: writing it for each small one takes longer than reading a
// few anew.
constexpr std::uint64_t kUnwrittenBytesMax = 1U << 20U;
constexpr std::array<char, 8> kJournalMagic = {'W', 'C', 'J', 'R', 'N', 'L', '0', '1'};

Error file_system_error(const std::error_code& error, const std::string& what) {
    return system_error(error.value(), what);
}

std::array<std::byte, kJournalHeaderBytes> journal_header(const model::Sha256& name) {
    std::array<std::byte, kJournalHeaderBytes> header;
    std::memcpy(header.data(), kJournalMagic.data(), 8);
    std::memcpy(header.data() + 8, name.bytes.data(), 32);
    return header;
}

}  // namespace

Result<std::unique_ptr<Destination>> open_directory(const std::string& directory,
                                                    std::shared_ptr<const model::Manifest> manifest,
                                                    const model::Sha256& manifest_name,
                                                    const DirectoryOptions& options) {
    auto destination =
        std::make_unique<DirectoryDestination>(std::move(manifest), manifest_name, options);
    WEIGHTCAST_CHECK(destination->open(directory));
    return std::unique_ptr<Destination>(std::move(destination));
}

DirectoryDestination::DirectoryDestination(std::shared_ptr<const model::Manifest> manifest,
                                           const model::Sha256& manifest_name,
                                           const DirectoryOptions& options)
    : manifest_(std::move(manifest)), manifest_name_(manifest_name), options_(options) {
    for (const model::Artifact& artifact : manifest_->artifacts) {
        expected_.insert(artifact.path);
        for (fs::path up = fs::path(artifact.path).parent_path(); !up.empty();
             up = up.parent_path()) {
            expected_directories_.insert(up.string());
        }
    }
}

Result<void> DirectoryDestination::open(const std::string& directory) {
    std::error_code error;
    fs::create_directories(directory, error);
    if (error) return file_system_error(error, fmt::format("cannot make directory {}", directory));
    const fs::path resolved = fs::canonical(directory, error);
    if (error) return file_system_error(error, fmt::format("cannot resolve {}", directory));
    directory_ = resolved.string();
    partial_ = directory_ + "/.weightcast-partial";
    swap_ = (resolved.parent_path() / ("." + resolved.filename().string() + ".weightcast-new"))
                .string();
    WEIGHTCAST_TRY(lock_, open_file(directory_, O_RDONLY | O_DIRECTORY));
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
        return Error{Code::conflict, errno,
                     fmt::format("another pull into {} is running", directory_)};
    }
    WEIGHTCAST_CHECK(finish_swap());
    WEIGHTCAST_CHECK(look_for_foreign());
    WEIGHTCAST_TRY(const bool whole, adopt_existing());
    if (whole) return success();
    WEIGHTCAST_CHECK(open_stage());
    return recover_chunks();
}

// Brings a swap that an earlier attempt began to one of its two ends.
Result<void> DirectoryDestination::finish_swap() {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(swap_, error))) return success();
    const bool swapped = fs::exists(fs::symlink_status(swap_ + "/.weightcast-partial", error));
    if (swapped || fs::exists(fs::symlink_status(partial_ + "/files", error)) ||
        !fs::exists(fs::symlink_status(partial_, error))) {
        return remove_tree(swap_);
    }
    fs::rename(swap_, partial_ + "/files", error);
    if (error) return file_system_error(error, fmt::format("cannot move {} back", swap_));
    return success();
}

Result<void> DirectoryDestination::look_for_foreign() {
    std::error_code error;
    auto entry = fs::recursive_directory_iterator(directory_, error);
    for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
        const std::string path = fs::path(*entry).lexically_relative(directory_).string();
        if (path.starts_with(".weightcast-partial")) {
            entry.disable_recursion_pending();
            continue;
        }
        const bool is_directory = entry->symlink_status().type() == fs::file_type::directory;
        const bool ours =
            options_.tensors.empty() &&
            (is_directory ? expected_directories_.contains(path) : expected_.contains(path));
        if (ours || options_.replace) continue;
        return Error{Code::invalid_input, 0,
                     fmt::format("{} holds {}, which is not part of {}@{}; choose an empty "
                                 "directory, or say --replace to lose what it holds",
                                 directory_, path, manifest_->model, manifest_->version)};
    }
    if (error) return file_system_error(error, fmt::format("cannot list {}", directory_));
    return success();
}

Error DirectoryDestination::differs(const std::string& path, std::uint64_t offset) const {
    return {Code::invalid_input, 0,
            fmt::format("{}/{} differs from {}@{} at offset {}; choose an empty directory, or say "
                        "--replace to lose what it holds",
                        directory_, path, manifest_->model, manifest_->version, offset)};
}

// Looks at the version's files that lie in the directory already. True if they are all there, and
// whole: nothing is left to do. Chunks that are right are remembered.
Result<bool> DirectoryDestination::adopt_existing() {
    existing_.resize(manifest_->artifacts.size());
    if (!options_.tensors.empty()) return false;
    bool all = true;
    for (std::size_t i = 0; i < existing_.size(); ++i) {
        const model::Artifact& artifact = manifest_->artifacts[i];
        auto fd = open_beneath(lock_.get(), artifact.path, O_RDONLY);
        if (!fd && !options_.replace && fd.error().code != Code::not_found) return fd.error();
        if (fd) existing_[i] = std::move(fd).value();
        const auto bytes = existing_[i] ? file_bytes(existing_[i].get(), artifact.path).value() : 0;
        all = all && existing_[i] && bytes == artifact.bytes;
        if (existing_[i] && bytes > artifact.bytes && !options_.replace) {
            return differs(artifact.path, artifact.bytes);
        }
    }
    const std::uint32_t chunk_count = manifest_->layout.chunk_count();
    existing_right_.assign(chunk_count, 0);
    std::vector<std::uint32_t> there;
    for (std::uint32_t chunk = 0; chunk < chunk_count; ++chunk) {
        if (existing_[manifest_->layout.chunk_range(chunk).artifact]) there.push_back(chunk);
    }
    parallel_for(there.size(), [&](std::size_t i) {
        const UniqueFd& fd = existing_[manifest_->layout.chunk_range(there[i]).artifact];
        existing_right_[there[i]] = right(fd.get(), there[i]) ? 1 : 0;
    });
    for (std::uint32_t chunk = 0; chunk < chunk_count; ++chunk) {
        const model::ArtifactRange range = manifest_->layout.chunk_range(chunk);
        if (existing_right_[chunk] != 0 || !existing_[range.artifact]) continue;
        all = false;
        if (options_.replace) continue;
        return differs(manifest_->artifacts[range.artifact].path, range.offset);
    }
    if (!all) return false;
    files_ = std::move(existing_);
    WEIGHTCAST_CHECK(map_files());
    present_ = options_.wanted;
    committed_ = true;
    WEIGHTCAST_CHECK(remove_tree(partial_));
    return true;
}

Result<void> DirectoryDestination::open_stage() {
    const std::string journal_path = partial_ + "/journal";
    if (auto old = open_file(journal_path, O_RDONLY)) {
        std::array<std::byte, kJournalHeaderBytes> header;
        const bool same = read_exactly(old.value().get(), header, 0, journal_path).has_value() &&
                          header == journal_header(manifest_name_);
        if (!same) WEIGHTCAST_CHECK(remove_tree(partial_));
    } else {
        WEIGHTCAST_CHECK(remove_tree(partial_));
    }
    std::error_code error;
    fs::create_directories(partial_ + "/files", error);
    if (error) return file_system_error(error, fmt::format("cannot make {}", partial_));
    WEIGHTCAST_TRY(const UniqueFd root, open_file(partial_ + "/files", O_RDONLY | O_DIRECTORY));
    files_.resize(manifest_->artifacts.size());
    shared_.assign(files_.size(), 0);
    for (std::uint32_t i = 0; i < files_.size(); ++i) {
        WEIGHTCAST_TRY(const bool shared, share_file(root.get(), i));
        if (!shared) WEIGHTCAST_CHECK(stage_file(root.get(), i));
        shared_[i] = shared ? 1 : 0;
    }
    WEIGHTCAST_TRY(journal_, open_file(journal_path, O_RDWR | O_CREAT));
    const std::size_t bitmap_bytes = (manifest_->layout.chunk_count() + 7) / 8;
    bitmap_.resize(bitmap_bytes);
    WEIGHTCAST_TRY(const auto bytes, file_bytes(journal_.get(), journal_path));
    if (bytes == kJournalHeaderBytes + bitmap_bytes) {
        WEIGHTCAST_CHECK(read_exactly(journal_.get(), bitmap_, kJournalHeaderBytes, journal_path));
    } else {
        WEIGHTCAST_CHECK(write_exactly(journal_.get(), bitmap_, kJournalHeaderBytes, journal_path));
        WEIGHTCAST_CHECK(
            write_exactly(journal_.get(), journal_header(manifest_name_), 0, journal_path));
    }
    return map_files();
}

// Stages an artifact as another version's file, if that has the right bytes. A clone is a file of
// its own that shares its blocks; a link is the same file, which nobody writes to.
Result<bool> DirectoryDestination::share_file(int root, std::uint32_t artifact) {
    const model::Artifact& wanted = manifest_->artifacts[artifact];
    const int source = artifact < options_.same_files.size() ? options_.same_files[artifact] : -1;
    if (source < 0 || wanted.bytes == 0 || !options_.tensors.empty()) return false;
    WEIGHTCAST_TRY(const std::uint64_t bytes, file_bytes(source, wanted.path));
    const std::uint32_t first = manifest_->layout.first_chunk(artifact);
    const std::uint32_t count = manifest_->layout.first_chunk(artifact + 1) - first;
    std::atomic<bool> same = bytes == wanted.bytes;
    parallel_for(same ? count : 0, [&](std::size_t i) {
        if (same && !right(source, first + static_cast<std::uint32_t>(i))) same = false;
    });
    if (!same) return false;
    const unsigned mode = wanted.executable ? 0755 : 0644;
    // Makes the directories, too.
    WEIGHTCAST_TRY(UniqueFd file, open_beneath(root, wanted.path, O_RDWR | O_CREAT, mode));
    if (::ioctl(file.get(), FICLONE, source) == 0) {
        files_[artifact] = std::move(file);
        return true;
    }
    const std::string opened = fmt::format("/proc/self/fd/{}", source);
    const bool linked =
        ::unlinkat(root, wanted.path.c_str(), 0) == 0 &&
        ::linkat(AT_FDCWD, opened.c_str(), root, wanted.path.c_str(), AT_SYMLINK_FOLLOW) == 0;
    if (!linked) return false;  // Another file system, or a file that has been removed.
    WEIGHTCAST_TRY(files_[artifact], open_beneath(root, wanted.path, O_RDONLY));
    return true;
}

Result<void> DirectoryDestination::stage_file(int root, std::uint32_t artifact) {
    const model::Artifact& wanted = manifest_->artifacts[artifact];
    const std::string name = partial_ + "/files/" + wanted.path;
    const unsigned mode = wanted.executable ? 0755 : 0644;
    UniqueFd& file = files_[artifact];
    WEIGHTCAST_TRY(file, open_beneath(root, wanted.path, O_RDWR | O_CREAT, mode));
    struct stat status {};
    if (::fstat(file.get(), &status) == 0 && status.st_nlink > 1) {
        // An earlier attempt shared it with another version, which must not be written to.
        if (::unlinkat(root, wanted.path.c_str(), 0) != 0) {
            return system_error(errno, fmt::format("cannot remove {}", name));
        }
        WEIGHTCAST_TRY(file, open_beneath(root, wanted.path, O_RDWR | O_CREAT, mode));
    }
    if (options_.tensors.empty()) WEIGHTCAST_CHECK(reserve_file(file.get(), wanted.bytes, name));
    if (::ftruncate(file.get(), static_cast<::off_t>(wanted.bytes)) != 0) {
        return system_error(errno, fmt::format("cannot size {}", name));
    }
    return success();
}

Result<void> DirectoryDestination::map_files() {
    mappings_.resize(files_.size());
    for (std::size_t i = 0; i < files_.size(); ++i) {
        const std::uint64_t bytes = manifest_->artifacts[i].bytes;
        WEIGHTCAST_TRY(mappings_[i], Mapping::map_file(files_[i].get(), 0, bytes, false));
    }
    return success();
}

// True if the chunk's bytes in an open file have the digest that the manifest says.
bool DirectoryDestination::right(int fd, std::uint32_t chunk) const {
    const model::ArtifactRange range = manifest_->layout.chunk_range(chunk);
    std::vector<std::byte> bytes(range.bytes);
    const auto read = read_exactly(fd, bytes, range.offset, "");
    return read && model::digest_chunk(bytes) == manifest_->chunk_digests[chunk];
}

// Counts what the journal claims, and takes over what is right in the directory's own files.
Result<void> DirectoryDestination::recover_chunks() {
    const std::vector<std::byte> journal = bitmap_;  // store() changes the other
    const auto claimed = [&](std::uint32_t chunk) {
        return (std::to_integer<unsigned>(journal[chunk / 8]) >> (chunk % 8) & 1) != 0;
    };
    const auto exists = [&](std::uint32_t chunk) {
        return !existing_right_.empty() && existing_right_[chunk] != 0;
    };
    std::vector<std::uint32_t> chunks;  // that may be there
    for (const std::uint32_t chunk : options_.wanted) {
        const bool shared = shared_[manifest_->layout.chunk_range(chunk).artifact] != 0;
        if (shared || claimed(chunk) || exists(chunk)) chunks.push_back(chunk);
    }
    std::vector<char> good(chunks.size());
    WEIGHTCAST_CHECK(parallel_try(good.size(), [&](std::size_t i) -> Result<void> {
        const std::uint32_t chunk = chunks[i];
        const model::ArtifactRange range = manifest_->layout.chunk_range(chunk);
        if (shared_[range.artifact] != 0) {
            good[i] = 1;
            return success();
        }
        if (claimed(chunk) && right(files_[range.artifact].get(), chunk)) {
            good[i] = 1;
        } else if (exists(chunk)) {
            std::vector<std::byte> bytes(range.bytes);
            const std::string& name = manifest_->artifacts[range.artifact].path;
            WEIGHTCAST_CHECK(
                read_exactly(existing_[range.artifact].get(), bytes, range.offset, name));
            WEIGHTCAST_CHECK(store(chunk, bytes));
            good[i] = 1;
        }
        return success();
    }));
    for (std::size_t i = 0; i < good.size(); ++i) {
        if (good[i] != 0) present_.push_back(chunks[i]);
    }
    existing_.clear();
    return success();
}

std::uint64_t DirectoryDestination::bytes_shared() const {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < shared_.size(); ++i) {
        if (shared_[i] != 0) bytes += manifest_->artifacts[i].bytes;
    }
    return bytes;
}

Result<void> DirectoryDestination::store(std::uint32_t chunk, std::span<const std::byte> bytes) {
    const model::ArtifactRange range = manifest_->layout.chunk_range(chunk);
    const std::string& path = manifest_->artifacts[range.artifact].path;
    WEIGHTCAST_CHECK(write_exactly(files_[range.artifact].get(), bytes, range.offset,
                                   partial_ + "/files/" + path));
    // The journal follows the bytes: a process that dies in between forgets the last chunks.
    const std::lock_guard lock(journal_mutex_);
    const std::size_t at = chunk / 8;
    bitmap_[at] |= static_cast<std::byte>(1U << (chunk % 8));
    unwritten_first_ = std::min(unwritten_first_, at);
    unwritten_last_ = std::max(unwritten_last_, at + 1);
    unwritten_bytes_ += bytes.size();
    return unwritten_bytes_ < kUnwrittenBytesMax ? success() : write_journal();
}

Result<void> DirectoryDestination::write_journal() {
    if (unwritten_bytes_ == 0) return success();
    const std::span<const std::byte> bits =
        std::span(bitmap_).subspan(unwritten_first_, unwritten_last_ - unwritten_first_);
    const std::size_t at = kJournalHeaderBytes + std::exchange(unwritten_first_, SIZE_MAX);
    unwritten_last_ = 0;
    unwritten_bytes_ = 0;
    return write_exactly(journal_.get(), bits, at, partial_ + "/journal");
}

void DirectoryDestination::abandon() {
    {
        // What could not be written is read again.
        const std::lock_guard lock(journal_mutex_);
        static_cast<void>(write_journal());
    }
    lock_.reset();
}

DirectoryDestination::~DirectoryDestination() { abandon(); }

std::vector<PlacedMemory> DirectoryDestination::memory() const {
    std::vector<PlacedMemory> placed;
    for (std::uint32_t i = 0; i < files_.size(); ++i) {
        if (mappings_[i].size() == 0) continue;
        placed.push_back(
            {manifest_->layout.place_of(i), {mappings_[i].span(), files_[i].get(), 0, true}});
    }
    return placed;
}

}  // namespace weightcast::agent
