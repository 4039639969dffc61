#include "transport/shm/address.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

#include "base/hex.h"
#include "base/unique_fd.h"

namespace weightcast::transport::shm {
namespace {

constexpr std::string_view kScheme = "shm://";
constexpr std::size_t kNameDigits = 32;
constexpr std::size_t kScopeBytesMax = 128;

}  // namespace

Result<std::string> local_scope() {
    const UniqueFd file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
    if (!file) return system_error(Code::unavailable, errno, "cannot read the boot id in /proc");
    std::array<char, 64> buffer{};
    const auto got = ::read(file.get(), buffer.data(), buffer.size());
    if (got <= 0) return system_error(Code::unavailable, errno, "cannot read the boot id in /proc");
    std::string boot_id(buffer.data(), static_cast<std::size_t>(got));
    while (!boot_id.empty() && boot_id.back() == '\n') boot_id.pop_back();
    struct ::stat network {};
    if (::stat("/proc/self/ns/net", &network) != 0) {
        return system_error(Code::unavailable, errno, "cannot read /proc/self/ns/net");
    }
    return fmt::format("{}.{}", boot_id, network.st_ino);
}

std::string Address::text() const { return fmt::format("{}{}/{}", kScheme, scope, name); }

std::optional<Address> Address::parse(std::string_view text) {
    if (text.substr(0, kScheme.size()) != kScheme) return std::nullopt;
    text.remove_prefix(kScheme.size());
    const auto slash = text.find('/');
    if (slash == std::string_view::npos || slash == 0 || slash > kScopeBytesMax) {
        return std::nullopt;
    }
    const auto name = text.substr(slash + 1);
    if (name.size() != kNameDigits || !from_hex(name)) return std::nullopt;
    return Address{std::string(text.substr(0, slash)), std::string(name)};
}

SocketAddress socket_address(std::string_view name) {
    constexpr std::string_view kPrefix = "weightcast.";
    SocketAddress result;
    result.address.sun_family = AF_UNIX;
    // A leading zero byte makes the name abstract: no file, gone with the process.
    char* out = &result.address.sun_path[1];
    out = std::copy(kPrefix.begin(), kPrefix.end(), out);
    out = std::copy(name.begin(), name.end(), out);
    result.bytes = static_cast<::socklen_t>(out - reinterpret_cast<char*>(&result.address));
    return result;
}

}  // namespace weightcast::transport::shm
