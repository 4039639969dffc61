// What agents and the registry say to each other. As JSON: docs/openapi.yaml, lib/registry/json.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/digest.h"

namespace weightcast::registry {

inline constexpr std::uint32_t kProtocolVersion = 2;
// Manifests of so many bytes are handed on in turns. Smaller ones are asked of any holder at once:
// a reader that must wait has lost more.
inline constexpr std::uint64_t kManifestTurnBytes = 16384;

using Incarnation = std::array<std::byte, 16>;

struct ClusterInfo {
    std::string cluster_id;  // made with the registry's store; a new disk has a new one
    std::string boot_epoch;  // new with every start: leases and region keys of older ones are gone
    std::uint32_t protocol = kProtocolVersion;
};

// A process that holds or receives versions, as it introduces itself.
struct PeerInfo {
    std::string name;  // unique among the living, unless take_over
    std::string host;  // for people and for placement
    Incarnation incarnation{};
    std::uint32_t protocol = kProtocolVersion;
    bool take_over = false;                        // replace a living peer of this name
    std::uint64_t serve_rate_max = 0;              // bytes/s to all readers together; 0: no cap
    std::map<std::string, std::string> addresses;  // fabric name -> exported address
    std::map<std::string, std::string> labels;     // "rack": where it stands, for plans
    std::uint64_t port_rate = 0;                   // bytes/s of its network ports; 0: not known
};

// Names a registered peer in every later call. `epoch` fences an earlier life of the same id.
struct PeerRef {
    std::uint64_t id = 0;
    std::uint64_t epoch = 0;
};

struct PeerLease {
    PeerRef peer;
    std::uint32_t lease_ms = 0;  // heartbeat well within this
    ClusterInfo cluster;
};

// A run of bytes of a version's address space (model/layout.h) in a holder's registered memory.
struct Extent {
    std::uint64_t place = 0;
    std::uint64_t bytes = 0;
    std::uint32_t region = 0;  // index into FabricKeys::regions
    std::uint64_t offset = 0;  // in that region
};

// What a reader needs to read a holding over one fabric. Keys are hexadecimal in JSON.
struct FabricKeys {
    std::vector<std::vector<std::byte>> regions;
    std::vector<std::byte> page;      // availability page (agent/page.h)
    std::vector<std::byte> manifest;  // the encoded manifest; empty if not served
};

struct Holding {
    std::string model;
    std::uint64_t version = 0;
    bool complete = false;
    std::uint64_t bytes_held = 0;
    std::string buckets;  // bitmap of completely held buckets, hexadecimal, bit i of byte i/8 first
    std::uint64_t page_bytes = 0;
    std::vector<Extent> extents;             // by ascending place, without overlap
    std::map<std::string, FabricKeys> keys;  // by fabric name
};

struct PublishRequest {
    PeerRef peer;
    std::string model;
    std::uint64_t version = 0;
    model::Sha256 manifest;
    std::uint64_t manifest_bytes = 0;
    model::Digest root;
    std::uint64_t bytes = 0;
    std::uint64_t chunk_count = 0;
    std::uint64_t bucket_count = 0;
    std::string channel;  // moved to this version if that is new, or made; empty: leave all alone
};

struct VersionInfo {
    std::string model;
    std::uint64_t version = 0;
    model::Sha256 manifest;
    std::uint64_t manifest_bytes = 0;
    model::Digest root;
    std::uint64_t bytes = 0;
    std::uint64_t chunk_count = 0;
    std::uint64_t bucket_count = 0;
    std::uint64_t published_wall_ms = 0;
    std::string publisher;
    bool quarantined = false;  // its publisher's source changed under it
    std::uint32_t holders_complete = 0;
    std::uint32_t holders_partial = 0;

    bool operator==(const VersionInfo&) const = default;
};

struct PublishReply {
    VersionInfo version;
    bool created = false;          // false: the same bytes were published before
    std::uint64_t generation = 0;  // of the channel, 0 if none was named
};

// A version that some of those who read a channel get instead of the channel's, on trial
// (registry/canary.h).
struct Canary {
    std::uint64_t version = 0;
    std::uint32_t percent = 100;                // of the peers, by their names
    std::map<std::string, std::string> labels;  // that a peer must have, all of them
};

struct ChannelInfo {
    std::string model;
    std::string channel;
    std::uint64_t version = 0;
    std::uint64_t generation = 0;
    std::uint64_t wall_ms = 0;
    std::optional<Canary> canary;
};

// A move of a channel, as its history has it.
struct ChannelMoved {
    ChannelInfo channel;
    std::string who;
    std::string why;
};

struct SetChannelRequest {
    std::string model;
    std::string channel;
    std::uint64_t version = 0;
    std::optional<std::uint64_t> expected_generation;  // 0: the channel must not exist yet
    std::string who;
    std::string why;
    std::optional<Canary> canary;  // none: it ends with this move
};

struct HoldingSummary {
    std::string model;
    std::uint64_t version = 0;
    bool complete = false;
    std::uint64_t bytes_held = 0;
};

struct PeerSummary {
    PeerRef peer;
    std::string name;
    std::string host;
    std::map<std::string, std::string> addresses;
    std::vector<HoldingSummary> holdings;
    std::uint32_t readers = 0;      // read leases that name it
    std::uint64_t quarantined = 0;  // reports that made readers avoid it
    std::uint64_t lease_left_ms = 0;
};

struct ModelInfo {
    std::string model;
    std::vector<VersionInfo> versions;  // ascending
    std::vector<ChannelInfo> channels;  // by name
};

// Progress of a holding, sent with heartbeats when it changed.
struct HoldingProgress {
    std::string model;
    std::uint64_t version = 0;
    bool complete = false;
    std::uint64_t bytes_held = 0;
    std::string buckets;
};

// A peer holds a version no more.
struct DropRequest {
    PeerRef peer;
    std::string model;
    std::uint64_t version = 0;
    bool unless_last = false;  // not if nobody else has all of it, and a channel names it
};

struct DropReply {
    std::uint32_t readers = 0;  // read leases of the version that still name the peer
};

struct Heartbeat {
    PeerRef peer;
    std::vector<HoldingProgress> progress;
};

struct HeartbeatReply {
    std::uint32_t lease_ms = 0;
    std::string boot_epoch;
};

struct PullRequest {
    PeerRef peer;
    std::string model;
    std::string reference;  // "", "@VERSION" or ":CHANNEL"; "" is the channel "stable"
    std::uint32_t holders_max = 16;
};

// A holder as hinted to a reader. `readers` counts read leases on it, this one included.
struct HolderHint {
    PeerRef peer;
    std::string name;
    std::string host;
    Incarnation incarnation{};
    std::uint64_t serve_rate_max = 0;
    std::uint32_t readers = 0;
    std::map<std::string, std::string> addresses;
    Holding holding;
    std::vector<std::uint32_t> stripes;  // that the plan has this reader read from it
    bool ancestor = false;               // it is the first to turn to when one of those fails
    // Of its readers that wait for the same chunk of the first of `stripes`, this is to be served
    // as so many-th: fabric::Read. 0: in no order.
    std::uint32_t turn = 0;
};

struct Grant {
    std::uint64_t pull = 0;  // names the read lease
    std::uint32_t lease_ms = 0;
    VersionInfo version;
    std::string channel;  // that resolved it, if any
    std::uint64_t generation = 0;
    std::vector<HolderHint> holders;  // best first
    std::uint32_t stripes = 0;        // of the plan, chunk % stripes; 0: there is none yet
    std::uint32_t plan_ms = 0;        // not 0: renew after so long to get one
    std::uint32_t manifest_ms = 0;    // not 0: renew after so long to be told who has the manifest
    std::uint32_t renew_ms = 0;       // not 0: renew so often, for the plan may change
    std::uint64_t digest = 0;         // of what the plan has this reader do; 0: there is no plan
    bool unchanged = false;           // all but the times is empty, being as the reader knows it
};

struct RenewRequest {
    PeerRef peer;
    std::uint64_t pull = 0;
    std::vector<std::uint64_t> avoid;  // ids of peers that failed this reader
    std::uint32_t holders_max = 16;
    double rate = 0;            // bytes/s that it got since the last renewal; 0: too short a time
    std::uint64_t known = 0;    // Grant::digest of what it does; 0: it wants all hints
    bool manifest = false;      // it waits to be told who has the manifest, and not for its plan
    bool has_manifest = false;  // it only tells that it has it now
};

struct CloseRequest {
    PeerRef peer;
    std::uint64_t pull = 0;
    bool completed = false;
    std::uint64_t bytes_read = 0;
    double seconds = 0;
    double ratio = 0;  // of the time to the lower bound
};

enum class ReportKind : std::uint8_t { corrupt, unreachable, source_changed };

// A reader complains of a holder, or (source_changed) a publisher of its own source.
struct HolderReport {
    PeerRef reporter;
    std::uint64_t holder = 0;  // peer id
    std::string model;
    std::uint64_t version = 0;
    ReportKind kind = ReportKind::corrupt;
    std::string detail;
};

}  // namespace weightcast::registry
