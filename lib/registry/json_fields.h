// The fields of every message, once for the writer and the reader. A visitor is called with
// (name, field) for a field that must be there, and by `optional` for one that is left out where it
// has its default: nothing, or the third argument.
#pragma once

#include <concepts>
#include <type_traits>

#include "registry/json.h"

namespace weightcast::registry::fields {

// T or const T: a reader visits the one, a writer the other.
template <typename M, typename T>
concept Is = std::same_as<std::remove_const_t<M>, T>;

template <typename V, Is<ClusterInfo> M>
void visit(V& v, M& m) {
    v("cluster_id", m.cluster_id);
    v("boot_epoch", m.boot_epoch);
    v("protocol", m.protocol);
}

template <typename V, Is<PeerInfo> M>
void visit(V& v, M& m) {
    v("name", m.name);
    v("host", m.host);
    v("incarnation", m.incarnation);
    v("protocol", m.protocol);
    v.optional("take_over", m.take_over);
    v.optional("serve_rate_max", m.serve_rate_max);
    v.optional("addresses", m.addresses);
    v.optional("labels", m.labels);
    v.optional("port_rate", m.port_rate);
}

template <typename V, Is<PeerRef> M>
void visit(V& v, M& m) {
    v("id", m.id);
    v("epoch", m.epoch);
}

template <typename V, Is<PeerLease> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("lease_ms", m.lease_ms);
    v("cluster", m.cluster);
}

template <typename V, Is<Extent> M>
void visit(V& v, M& m) {
    v("place", m.place);
    v("bytes", m.bytes);
    v("region", m.region);
    v("offset", m.offset);
}

template <typename V, Is<FabricKeys> M>
void visit(V& v, M& m) {
    v("regions", m.regions);
    v.optional("page", m.page);
    v.optional("manifest", m.manifest);
}

template <typename V, Is<Holding> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("version", m.version);
    v("complete", m.complete);
    v("bytes_held", m.bytes_held);
    v.optional("buckets", m.buckets);
    v.optional("page_bytes", m.page_bytes);
    v.optional("extents", m.extents);
    v.optional("keys", m.keys);
}

template <typename V, Is<PublishRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("model", m.model);
    v("version", m.version);
    v("manifest", m.manifest);
    v("manifest_bytes", m.manifest_bytes);
    v("root", m.root);
    v("bytes", m.bytes);
    v("chunk_count", m.chunk_count);
    v("bucket_count", m.bucket_count);
    v.optional("channel", m.channel);
}

template <typename V, Is<VersionInfo> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("version", m.version);
    v("manifest", m.manifest);
    v("manifest_bytes", m.manifest_bytes);
    v("root", m.root);
    v("bytes", m.bytes);
    v("chunk_count", m.chunk_count);
    v("bucket_count", m.bucket_count);
    v("published_wall_ms", m.published_wall_ms);
    v("publisher", m.publisher);
    v("quarantined", m.quarantined);
    v("holders_complete", m.holders_complete);
    v("holders_partial", m.holders_partial);
}

template <typename V, Is<PublishReply> M>
void visit(V& v, M& m) {
    v("version", m.version);
    v("created", m.created);
    v("generation", m.generation);
}

template <typename V, Is<Canary> M>
void visit(V& v, M& m) {
    v("version", m.version);
    v.optional("percent", m.percent, Canary{}.percent);
    v.optional("labels", m.labels);
}

template <typename V, Is<ChannelInfo> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("channel", m.channel);
    v("version", m.version);
    v("generation", m.generation);
    v("wall_ms", m.wall_ms);
    v.optional("canary", m.canary);
}

template <typename V, Is<SetChannelRequest> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("channel", m.channel);
    v("version", m.version);
    v.optional("expected_generation", m.expected_generation);
    v.optional("who", m.who);
    v.optional("why", m.why);
    v.optional("canary", m.canary);
}

template <typename V, Is<HoldingSummary> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("version", m.version);
    v("complete", m.complete);
    v("bytes_held", m.bytes_held);
}

template <typename V, Is<PeerSummary> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("name", m.name);
    v("host", m.host);
    v("addresses", m.addresses);
    v("holdings", m.holdings);
    v("readers", m.readers);
    v("quarantined", m.quarantined);
    v("lease_left_ms", m.lease_left_ms);
}

template <typename V, Is<ModelInfo> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("versions", m.versions);
    v("channels", m.channels);
}

template <typename V, Is<HoldingProgress> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("version", m.version);
    v("complete", m.complete);
    v("bytes_held", m.bytes_held);
    v.optional("buckets", m.buckets);
}

template <typename V, Is<Heartbeat> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v.optional("progress", m.progress);
}

template <typename V, Is<DropRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("model", m.model);
    v("version", m.version);
    v.optional("unless_last", m.unless_last);
}

template <typename V, Is<DropReply> M>
void visit(V& v, M& m) {
    v("readers", m.readers);
}

template <typename V, Is<HeartbeatReply> M>
void visit(V& v, M& m) {
    v("lease_ms", m.lease_ms);
    v("boot_epoch", m.boot_epoch);
}

template <typename V, Is<PullRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("model", m.model);
    v.optional("reference", m.reference);
    v.optional("holders_max", m.holders_max, PullRequest{}.holders_max);
}

template <typename V, Is<HolderHint> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("name", m.name);
    v("host", m.host);
    v("incarnation", m.incarnation);
    v.optional("serve_rate_max", m.serve_rate_max);
    v.optional("readers", m.readers);
    v("addresses", m.addresses);
    v("holding", m.holding);
    v.optional("stripes", m.stripes);
    v.optional("ancestor", m.ancestor);
    v.optional("turn", m.turn);
}

template <typename V, Is<Grant> M>
void visit(V& v, M& m) {
    v("pull", m.pull);
    v("lease_ms", m.lease_ms);
    v.optional("version", m.version);
    v.optional("channel", m.channel);
    v.optional("generation", m.generation);
    v.optional("holders", m.holders);
    v.optional("stripes", m.stripes);
    v.optional("plan_ms", m.plan_ms);
    v.optional("manifest_ms", m.manifest_ms);
    v.optional("renew_ms", m.renew_ms);
    v.optional("digest", m.digest);
    v.optional("unchanged", m.unchanged);
}

template <typename V, Is<RenewRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("pull", m.pull);
    v.optional("avoid", m.avoid);
    v.optional("holders_max", m.holders_max, RenewRequest{}.holders_max);
    v.optional("rate", m.rate);
    v.optional("known", m.known);
    v.optional("manifest", m.manifest);
    v.optional("has_manifest", m.has_manifest);
}

template <typename V, Is<CloseRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("pull", m.pull);
    v("completed", m.completed);
    v.optional("bytes_read", m.bytes_read);
    v.optional("seconds", m.seconds);
    v.optional("ratio", m.ratio);
}

template <typename V, Is<HolderReport> M>
void visit(V& v, M& m) {
    v("reporter", m.reporter);
    v("holder", m.holder);
    v("model", m.model);
    v("version", m.version);
    v("kind", m.kind);
    v.optional("detail", m.detail);
}

}  // namespace weightcast::registry::fields
