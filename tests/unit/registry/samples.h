// Messages as the registry's tests use them.
#pragma once

#include <span>
#include <string>

#include "registry/api.h"
#include "registry/messages.h"

namespace weightcast::registry {

inline PeerInfo sample_peer(const std::string& name, std::uint8_t life = 1,
                            const std::string& host = "host-a") {
    PeerInfo info;
    info.name = name;
    info.host = host;
    info.incarnation[0] = std::byte{life};
    info.addresses["tcp"] = "10.0.0.1:7000";
    return info;
}

inline std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

// Version `number` of model m with ten buckets, whose manifest is `text`.
inline PublishRequest sample_publish(const PeerRef& peer, std::uint64_t number,
                                     const std::string& text, const std::string& channel = "") {
    PublishRequest request;
    request.peer = peer;
    request.model = "m";
    request.version = number;
    request.manifest = model::sha256(bytes_of(text));
    request.manifest_bytes = text.size();
    request.root.bytes[0] = std::byte{7};
    request.bytes = 1000;
    request.chunk_count = 20;
    request.bucket_count = 10;
    request.channel = channel;
    return request;
}

inline Holding sample_holding(std::uint64_t number, bool complete) {
    Holding holding;
    holding.model = "m";
    holding.version = number;
    holding.complete = complete;
    holding.bytes_held = complete ? 1000 : 300;
    holding.buckets = complete ? "ff03" : "0500";  // buckets 0 and 2
    holding.page_bytes = 4096;
    holding.extents = {{0, 1000, 0, 64}};
    holding.keys["tcp"] = {{{std::byte{1}, std::byte{0xff}}}, {std::byte{2}}, {}};
    return holding;
}

inline PullRequest sample_pull(const PeerRef& peer, const std::string& reference = "@1",
                               std::uint32_t holders_max = 16) {
    return {peer, "m", reference, holders_max};
}

}  // namespace weightcast::registry
