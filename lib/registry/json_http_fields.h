// The fields of what only the HTTP interface has, as json_fields.h does for messages.h.
#pragma once

#include "registry/json_fields.h"

namespace weightcast::registry::fields {

template <typename V, Is<LeaveRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
}

template <typename V, Is<HoldRequest> M>
void visit(V& v, M& m) {
    v("peer", m.peer);
    v("holding", m.holding);
}

template <typename V, Is<BucketQuery> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("version", m.version);
    v("bucket", m.bucket);
    v.optional("count_max", m.count_max, BucketQuery{}.count_max);
}

template <typename V, Is<BucketHolders> M>
void visit(V& v, M& m) {
    v("peers", m.peers);
}

template <typename V, Is<ModelQuery> M>
void visit(V& v, M& m) {
    v("model", m.model);
}

template <typename V, Is<HistoryQuery> M>
void visit(V& v, M& m) {
    v("model", m.model);
    v("channel", m.channel);
    v.optional("count_max", m.count_max, HistoryQuery{}.count_max);
}

template <typename V, Is<ChannelMoved> M>
void visit(V& v, M& m) {
    v("channel", m.channel);
    v("who", m.who);
    v("why", m.why);
}

template <typename V, Is<History> M>
void visit(V& v, M& m) {
    v("moves", m.moves);
}

template <typename V, Is<ModelList> M>
void visit(V& v, M& m) {
    v("models", m.models);
}

template <typename V, Is<PeerList> M>
void visit(V& v, M& m) {
    v("peers", m.peers);
}

template <typename V, Is<Nothing> M>
void visit(V&, M&) {}

template <typename V, Is<Event> M>
void visit(V& v, M& m) {
    v("sequence", m.sequence);
    v("model", m.model);
    v("version", m.version);
    v("channel", m.channel);
    v("generation", m.generation);
    v.optional("wall_ms", m.wall_ms);
    v.optional("canary", m.canary);
    v("peer", m.peer);
    v("name", m.name);
    v("detail", m.detail);
}

}  // namespace weightcast::registry::fields
