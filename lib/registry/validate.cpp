#include "registry/validate.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <string_view>

namespace weightcast::registry {
namespace {

Error bad(std::string message) { return {Code::invalid_input, 0, std::move(message)}; }

Result<void> check_visible(std::string_view field, const std::string& text) {
    const bool visible =
        std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
    if (text.empty() || text.size() > kNameBytesMax || !visible) {
        return bad(
            fmt::format("{} must be 1 to {} visible ASCII characters", field, kNameBytesMax));
    }
    return success();
}

Result<void> check_count(std::string_view field, std::size_t count, std::size_t count_max) {
    if (count <= count_max) return success();
    return bad(fmt::format("{} has {} entries, the limit is {}", field, count, count_max));
}

Result<void> check_bytes(std::string_view field, std::size_t bytes, std::size_t bytes_max) {
    if (bytes <= bytes_max) return success();
    return bad(fmt::format("{} has {} bytes, the limit is {}", field, bytes, bytes_max));
}

Result<void> check_buckets(const std::string& buckets) {
    WEIGHTCAST_CHECK(check_bytes("buckets", buckets.size(), kBucketsMax / 4));
    const bool hex = std::all_of(buckets.begin(), buckets.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    });
    if (!hex || buckets.size() % 2 != 0) return bad("buckets must be bytes in hexadecimal");
    return success();
}

Result<void> check_extents(const Holding& holding) {
    WEIGHTCAST_CHECK(check_count("extents", holding.extents.size(), kExtentsMax));
    std::size_t regions = std::numeric_limits<std::size_t>::max();
    for (const auto& [fabric, keys] : holding.keys) {
        regions = std::min(regions, keys.regions.size());
    }
    std::uint64_t end = 0;
    for (const Extent& extent : holding.extents) {
        constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
        if (extent.place < end || extent.bytes > kMax - extent.place ||
            extent.bytes > kMax - extent.offset) {
            return bad(fmt::format("extents must ascend without overlap: place {} of {} bytes",
                                   extent.place, extent.bytes));
        }
        if (extent.region >= regions) {
            return bad(fmt::format("extent at place {} names region {}, a fabric has keys of {}",
                                   extent.place, extent.region, regions));
        }
        end = extent.place + extent.bytes;
    }
    return success();
}

}  // namespace

Result<void> check_model_name(const std::string& name) {
    WEIGHTCAST_CHECK(check_visible("model", name));
    if (name.find_first_of("@:") != std::string::npos) {
        return bad(fmt::format("model {} must not contain '@' or ':'", name));
    }
    return success();
}

Result<void> check_channel_name(const std::string& name) {
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               c == '.' || c == '_' || c == '-';
    });
    if (name.empty() || name.size() > 64 || !plain) {
        return bad("channel must be 1 to 64 letters, digits, '.', '_' or '-'");
    }
    return success();
}

Result<void> check_labels(const std::map<std::string, std::string>& labels) {
    WEIGHTCAST_CHECK(check_count("labels", labels.size(), kLabelsMax));
    for (const auto& [label, value] : labels) {
        WEIGHTCAST_CHECK(check_visible("label", label));
        WEIGHTCAST_CHECK(check_bytes("label", value.size(), kTextBytesMax));
    }
    return success();
}

Result<void> check(const PeerInfo& info) {
    WEIGHTCAST_CHECK(check_visible("name", info.name));
    WEIGHTCAST_CHECK(check_visible("host", info.host));
    WEIGHTCAST_CHECK(check_count("addresses", info.addresses.size(), kFabricsMax));
    for (const auto& [fabric, address] : info.addresses) {
        WEIGHTCAST_CHECK(check_visible("fabric", fabric));
        WEIGHTCAST_CHECK(check_bytes("address", address.size(), kAddressBytesMax));
    }
    return check_labels(info.labels);
}

Result<void> check(const Heartbeat& heartbeat) {
    WEIGHTCAST_CHECK(check_count("progress", heartbeat.progress.size(), kProgressMax));
    for (const HoldingProgress& progress : heartbeat.progress) {
        WEIGHTCAST_CHECK(check_buckets(progress.buckets));
    }
    return success();
}

Result<void> check(const PublishRequest& request) {
    WEIGHTCAST_CHECK(check_model_name(request.model));
    if (!request.channel.empty()) WEIGHTCAST_CHECK(check_channel_name(request.channel));
    if (request.manifest_bytes > kManifestBytesMax) {
        return bad(fmt::format("manifest_bytes is {}, the limit is {}", request.manifest_bytes,
                               kManifestBytesMax));
    }
    if (request.bucket_count > kBucketsMax) {
        return bad(
            fmt::format("bucket_count is {}, the limit is {}", request.bucket_count, kBucketsMax));
    }
    return success();
}

Result<void> check(const Holding& holding) {
    WEIGHTCAST_CHECK(check_model_name(holding.model));
    WEIGHTCAST_CHECK(check_buckets(holding.buckets));
    WEIGHTCAST_CHECK(check_count("keys", holding.keys.size(), kFabricsMax));
    for (const auto& [fabric, keys] : holding.keys) {
        WEIGHTCAST_CHECK(check_visible("fabric", fabric));
        WEIGHTCAST_CHECK(check_count("regions", keys.regions.size(), kRegionsMax));
        for (const auto& region : keys.regions) {
            WEIGHTCAST_CHECK(check_bytes("region key", region.size(), kKeyBytesMax));
        }
        WEIGHTCAST_CHECK(check_bytes("page key", keys.page.size(), kKeyBytesMax));
        WEIGHTCAST_CHECK(check_bytes("manifest key", keys.manifest.size(), kKeyBytesMax));
    }
    return check_extents(holding);
}

Result<void> check(const PullRequest& request) {
    WEIGHTCAST_CHECK(check_model_name(request.model));
    if (request.reference.empty()) return success();
    if (request.reference.front() == ':') return check_channel_name(request.reference.substr(1));
    return check_visible("reference", request.reference);
}

Result<void> check(const RenewRequest& request) {
    return check_count("avoid", request.avoid.size(), kAvoidMax);
}

Result<void> check(const HolderReport& report) {
    WEIGHTCAST_CHECK(check_model_name(report.model));
    return check_bytes("detail", report.detail.size(), kTextBytesMax);
}

Result<void> check(const SetChannelRequest& request) {
    WEIGHTCAST_CHECK(check_model_name(request.model));
    WEIGHTCAST_CHECK(check_channel_name(request.channel));
    WEIGHTCAST_CHECK(check_bytes("who", request.who.size(), kTextBytesMax));
    WEIGHTCAST_CHECK(check_bytes("why", request.why.size(), kTextBytesMax));
    if (!request.canary) return success();
    if (request.canary->percent == 0 || request.canary->percent > 100) {
        return Error{
            Code::invalid_input, 0,
            fmt::format("percent {} of a canary is not from 1 to 100", request.canary->percent)};
    }
    return check_labels(request.canary->labels);
}

}  // namespace weightcast::registry
