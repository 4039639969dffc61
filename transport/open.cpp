#include "transport/open.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "fabric/fabric.h"

namespace weightcast::transport {
namespace {

using fabric::Fabric;
using fabric::FabricOptions;

struct Transport {
    std::string_view name;
    Result<std::unique_ptr<Fabric>> (*open)(const FabricOptions&);
};

// Best first. UCX comes after tcp, because without RDMA its READ is made of active messages over
// TCP: measured on loopback at 16 MiB a read, UCX 1.13 gives 2.1 GB/s, 0.7 at 1 MiB, and keeps the
// holder's CPU busy. With RDMA it moves up, see open_fabrics().
constexpr std::array<Transport, 3> kTransports{{
    {"shm", open_shm},
    {"tcp", open_tcp},
    {"ucx", open_ucx},
}};

bool is_named(std::span<const std::string> names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// RDMA beats TCP, and shared memory beats both.
int rank(const Fabric& fabric) {
    if (std::string_view(fabric.name()) == "shm") return 0;
    return fabric.emulated() ? 2 : 1;
}

}  // namespace

std::vector<std::string> built_in() {
    std::vector<std::string> names;
    for (const auto& transport : kTransports) names.emplace_back(transport.name);
    return names;
}

Result<std::vector<std::unique_ptr<Fabric>>> open_fabrics(std::span<const std::string> names,
                                                          const FabricOptions& options) {
    for (const auto& name : names) {
        const bool known = std::any_of(kTransports.begin(), kTransports.end(),
                                       [&name](const auto& one) { return one.name == name; });
        if (!known) return Error{Code::not_found, 0, "there is no transport named " + name};
    }
    std::vector<std::unique_ptr<Fabric>> fabrics;
    for (const auto& transport : kTransports) {
        const bool wanted = is_named(names, transport.name);
        if (!names.empty() && !wanted) continue;
        auto opened = transport.open(options);
        if (!opened && wanted) return std::move(opened).error();
        if (!opened) {
            log(LogLevel::info, "goes without {}: {}", transport.name, opened.error().message);
            continue;
        }
        auto fabric = std::move(opened).value();
        if (!wanted && transport.name == "ucx" && fabric->emulated()) {
            log(LogLevel::info, "goes without ucx: it finds no RDMA here, and tcp is faster");
            continue;
        }
        fabrics.push_back(std::move(fabric));
    }
    std::stable_sort(fabrics.begin(), fabrics.end(),
                     [](const auto& a, const auto& b) { return rank(*a) < rank(*b); });
    return fabrics;
}

}  // namespace weightcast::transport
