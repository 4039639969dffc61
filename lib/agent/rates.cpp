#include "agent/rates.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace weightcast::agent {
namespace {

using AddressList = std::unique_ptr<::addrinfo, decltype(&::freeaddrinfo)>;
using InterfaceList = std::unique_ptr<::ifaddrs, decltype(&::freeifaddrs)>;

AddressList resolve(const std::string& address) {
    AddressList none(nullptr, &::freeaddrinfo);
    const auto scheme = address.find("://");
    const auto colon = address.rfind(':');
    if (scheme == std::string::npos || colon <= scheme + 3) return none;
    std::string host = address.substr(scheme + 3, colon - scheme - 3);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    ::addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_DGRAM;
    ::addrinfo* found = nullptr;
    const std::string port = address.substr(colon + 1);
    if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return none;
    return {found, &::freeaddrinfo};
}

bool same_host(const ::sockaddr& a, const ::sockaddr& b) {
    if (a.sa_family != b.sa_family) return false;
    if (a.sa_family == AF_INET) {
        ::sockaddr_in x{};
        ::sockaddr_in y{};
        std::memcpy(&x, &a, sizeof x);
        std::memcpy(&y, &b, sizeof y);
        return x.sin_addr.s_addr == y.sin_addr.s_addr;
    }
    if (a.sa_family != AF_INET6) return false;
    ::sockaddr_in6 x{};
    ::sockaddr_in6 y{};
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    return std::memcmp(&x.sin6_addr, &y.sin6_addr, sizeof x.sin6_addr) == 0;
}

}  // namespace

double port_rate_towards(const std::string& address) {
    const AddressList target = resolve(address);
    if (!target) return 0;
    const UniqueFd socket(::socket(target->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    // Connecting a datagram socket sends nothing; it only picks the route.
    if (!socket || ::connect(socket.get(), target->ai_addr, target->ai_addrlen) != 0) return 0;
    ::sockaddr_storage local{};
    ::socklen_t length = sizeof local;
    auto* local_address = reinterpret_cast<::sockaddr*>(&local);
    if (::getsockname(socket.get(), local_address, &length) != 0) return 0;
    ::ifaddrs* all = nullptr;
    if (::getifaddrs(&all) != 0) return 0;
    const InterfaceList interfaces(all, &::freeifaddrs);
    for (const ::ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
        if (i->ifa_addr == nullptr || !same_host(*i->ifa_addr, *local_address)) continue;
        std::ifstream file(fmt::format("/sys/class/net/{}/speed", i->ifa_name));
        double megabits = 0;
        if (file >> megabits && megabits > 0) return megabits * 125'000;
    }
    return 0;
}

double memory_copy_rate() {
    static const double rate = [] {
        constexpr std::size_t kBytes = 4U << 20U;  // touching more takes longer than a small pull
        std::vector<char> from(kBytes, 1);
        std::vector<char> to(kBytes, 2);
        double best = 0;
        for (int i = 0; i < 3; ++i) {
            const TimePoint start = system_clock().now();
            std::memcpy(to.data(), from.data(), kBytes);
            // The copy must not be optimised away.
            __asm__ volatile("" : : "r"(to.data()) : "memory");
            best = std::max(best, kBytes / seconds(system_clock().now() - start));
        }
        return best;
    }();
    return rate;
}

}  // namespace weightcast::agent
