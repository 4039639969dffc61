// What the contract tests share.
#pragma once

#include <algorithm>
#include <functional>
#include <string_view>

#include "tests/contract/fabrics.h"
#include "tests/contract/session.h"
#include "tests/kit/catch.h"

namespace weightcast::contract {

using fabric::Fabric;
using fabric::FabricOptions;
using fabric::LinkId;
using fabric::ReadStatus;
using fabric::ReadTag;
using fabric::RegionKey;
using Piece = Session::Piece;

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;

// Runs `body` in a section for each fabric whose name begins so, with a site of its own.
inline void on_every_fabric(const std::function<void(Site&)>& body, std::string_view prefix = "") {
    static const std::vector<SiteFactory> factories = sites();
    for (const SiteFactory& factory : factories) {
        if (!factory.name.starts_with(prefix)) continue;
        DYNAMIC_SECTION(factory.name) {
            if (!factory.skip.empty()) {
                WARN(factory.name << " is skipped: " << factory.skip);
                return;
            }
            body(*factory.make());
        }
    }
}

// A status that says that the peer is lost.
inline bool is_loss(ReadStatus status) {
    return status == ReadStatus::unreachable || status == ReadStatus::timed_out;
}

inline bool all_are(std::span<const std::byte> bytes, std::byte value) {
    return std::ranges::all_of(bytes, [&](std::byte b) { return b == value; });
}

}  // namespace weightcast::contract
