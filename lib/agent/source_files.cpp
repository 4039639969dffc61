#include "agent/source_files.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/file.h"
#include "base/log.h"
#include "model/manifest.h"

namespace weightcast::agent {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kTextBytesMax = 100'000'000;

}  // namespace

Result<std::shared_ptr<SourceFiles>> SourceFiles::open(std::span<const std::string> paths) {
    auto files = std::make_shared<SourceFiles>();
    for (const std::string& path : paths) {
        std::error_code error;
        if (fs::is_directory(path, error)) {
            WEIGHTCAST_CHECK(files->add_tree(path));
        } else {
            WEIGHTCAST_CHECK(files->add(path, fs::path(path).filename().string()));
        }
    }
    auto& all = files->files_;
    std::sort(all.begin(), all.end(),
              [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
    const auto twice = std::adjacent_find(
        all.begin(), all.end(),
        [](const SourceFile& a, const SourceFile& b) { return a.path == b.path; });
    if (twice != all.end()) {
        return Error{Code::invalid_input, 0, fmt::format("{} is given twice", twice->path)};
    }
    if (all.empty()) return Error{Code::invalid_input, 0, "there is no file to publish"};
    return files;
}

Result<void> SourceFiles::add_tree(const std::string& directory) {
    std::error_code error;
    auto entry = fs::recursive_directory_iterator(directory, error);
    for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        if (name.starts_with(".weightcast")) {
            entry.disable_recursion_pending();
            continue;
        }
        std::error_code ignored;
        if (entry->is_regular_file(ignored)) {
            const auto path = entry->path().lexically_relative(directory).generic_string();
            WEIGHTCAST_CHECK(add(entry->path().string(), path));
        } else if (entry->is_symlink(ignored) || !entry->is_directory(ignored)) {
            log(LogLevel::warning, "{} is not a file and is left out", entry->path().string());
        }
    }
    if (!error) return success();
    return system_error(error.value(), fmt::format("cannot list {}", directory));
}

Result<void> SourceFiles::add(const std::string& file, const std::string& path) {
    WEIGHTCAST_CHECK(model::check_artifact_path(path));
    SourceFile source;
    source.path = path;
    WEIGHTCAST_TRY(source.fd, open_file(file, O_RDONLY | O_NONBLOCK));
    struct stat status {};
    if (::fstat(source.fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
        return Error{Code::invalid_input, 0, fmt::format("{} is not a regular file", file)};
    }
    source.bytes = static_cast<std::uint64_t>(status.st_size);
    source.executable = (status.st_mode & S_IXUSR) != 0;
    source.modified = status.st_mtim;
    WEIGHTCAST_TRY(source.pages, Mapping::map_file(source.fd.get(), 0, source.bytes, false));
    files_.push_back(std::move(source));
    return success();
}

Result<std::string> SourceFiles::read_text(std::size_t index) const {
    const SourceFile& file = files_[index];
    if (file.bytes > kTextBytesMax) {
        return Error{
            Code::invalid_input, 0,
            fmt::format("{} has {} bytes, the limit is {}", file.path, file.bytes, kTextBytesMax)};
    }
    std::string text(file.bytes, '\0');
    WEIGHTCAST_CHECK(
        read_exactly(file.fd.get(), std::as_writable_bytes(std::span(text)), 0, file.path));
    return text;
}

Result<void> SourceFiles::check_unchanged() const {
    for (const SourceFile& file : files_) {
        struct stat status {};
        const bool same = ::fstat(file.fd.get(), &status) == 0 &&
                          static_cast<std::uint64_t>(status.st_size) == file.bytes &&
                          status.st_mtim.tv_sec == file.modified.tv_sec &&
                          status.st_mtim.tv_nsec == file.modified.tv_nsec;
        if (same) continue;
        return Error{Code::corrupt, 0,
                     fmt::format("{} changed while it was published (it had {} bytes, now {})",
                                 file.path, file.bytes, status.st_size)};
    }
    return success();
}

}  // namespace weightcast::agent
