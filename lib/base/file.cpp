#include "base/file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace weightcast {
namespace {

constexpr std::uint64_t kStatBlockBytes = 512;  // of st_blocks, whatever the file system

}  // namespace

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
    if (!fd) return system_error(errno, fmt::format("cannot open {}", path));
    return fd;
}

Result<std::uint64_t> file_bytes(int fd, const std::string& name) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return system_error(errno, fmt::format("cannot stat {}", name));
    return static_cast<std::uint64_t>(status.st_size);
}

Result<void> read_exactly(int fd, std::span<std::byte> bytes, std::uint64_t offset,
                          const std::string& name) {
    while (!bytes.empty()) {
        const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<::off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            return system_error(errno, fmt::format("cannot read {} at offset {}", name, offset));
        }
        if (got == 0) {
            return Error{Code::invalid_input, 0,
                         fmt::format("{} ends at offset {}, {} bytes too early", name, offset,
                                     bytes.size())};
        }
        bytes = bytes.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return success();
}

Result<void> write_exactly(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                           const std::string& name) {
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<::off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            return system_error(errno, fmt::format("cannot write {} at offset {}", name, offset));
        }
        bytes = bytes.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return success();
}

Result<UniqueFd> open_beneath(int directory, const std::string& path, int flags, unsigned mode) {
    UniqueFd current;
    int at = directory;
    std::size_t begin = 0;
    for (std::size_t end = path.find('/'); end != std::string::npos; end = path.find('/', begin)) {
        const std::string component = path.substr(begin, end - begin);
        if ((flags & O_CREAT) != 0 && ::mkdirat(at, component.c_str(), 0755) != 0 &&
            errno != EEXIST) {
            return system_error(errno,
                                fmt::format("cannot make directory {}", path.substr(0, end)));
        }
        UniqueFd next(
            ::openat(at, component.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!next) return system_error(errno, fmt::format("cannot open {}", path.substr(0, end)));
        current = std::move(next);
        at = current.get();
        begin = end + 1;
    }
    UniqueFd fd(::openat(at, path.c_str() + begin, flags | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!fd) return system_error(errno, fmt::format("cannot open {}", path));
    return fd;
}

Result<void> reserve_file(int fd, std::uint64_t bytes, const std::string& name) {
    if (bytes == 0) return success();
    struct ::statfs system {};
    struct ::stat file {};
    if (::fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC && ::fstat(fd, &file) == 0) {
        const std::uint64_t room =
            std::uint64_t{system.f_bavail} * static_cast<std::uint64_t>(system.f_bsize) +
            static_cast<std::uint64_t>(file.st_blocks) * kStatBlockBytes;
        if (system.f_blocks == 0 || bytes <= room) return success();
        return system_error(ENOSPC,
                            fmt::format("{} needs {} bytes, there are {}", name, bytes, room));
    }
    int status = 0;
    do {
        status = ::fallocate(fd, 0, 0, static_cast<::off_t>(bytes)) == 0 ? 0 : errno;
    } while (status == EINTR);
    if (status == 0 || status == EOPNOTSUPP || status == ENOSYS) return success();
    return system_error(status, fmt::format("cannot reserve {} bytes for {}", bytes, name));
}

Result<void> remove_tree(const std::string& path) {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) return system_error(error.value(), fmt::format("cannot remove {}", path));
    return success();
}

}  // namespace weightcast
