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

// Best first. ucx is last: its reads are active messages that keep the holder's CPU busy, and over
// TCP it is slower than tcp.
constexpr std::array<Transport, 4> kTransports{{
    {"shm", open_shm},
    {"verbs", open_verbs},
    {"tcp", open_tcp},
    {"ucx", open_ucx},
}};

bool is_named(std::span<const std::string> names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::vector<std::string> built_in() {
    std::vector<std::string> names;
    names.reserve(kTransports.size());
    for (const auto& transport : kTransports) names.emplace_back(transport.name);
    return names;
}

Result<std::vector<std::unique_ptr<Fabric>>> open_fabrics(std::span<const std::string> names,
                                                          std::span<const std::string> besides,
                                                          const FabricOptions& options) {
    std::vector<std::string> all(names.begin(), names.end());
    all.insert(all.end(), besides.begin(), besides.end());
    for (const auto& name : all) {
        const bool known = std::any_of(kTransports.begin(), kTransports.end(),
                                       [&name](const auto& one) { return one.name == name; });
        if (!known) return Error{Code::not_found, 0, "there is no transport named " + name};
    }
    std::vector<std::unique_ptr<Fabric>> fabrics;
    for (const auto& transport : kTransports) {
        const bool wanted = is_named(names, transport.name);
        if (!all.empty() && !is_named(all, transport.name)) continue;
        auto opened = transport.open(options);
        if (!opened && wanted) return std::move(opened).error();
        if (!opened) {
            const bool absent = opened.error().code == Code::unavailable;  // not built in
            log(absent ? LogLevel::info : LogLevel::warning, "goes without {}: {}", transport.name,
                opened.error().message);
            continue;
        }
        fabrics.push_back(std::move(opened).value());
    }
    return fabrics;
}

}  // namespace weightcast::transport
