// Messages as JSON text, as docs/openapi.yaml describes them. Reentrant.
//
// Integers are exact up to 2^64 - 1, digests and keys are hexadecimal. A reader ignores fields it
// does not know.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "registry/change.h"
#include "registry/event.h"
#include "registry/messages.h"
#include "weightcast/result.h"

namespace weightcast::registry {

// Bodies that exist on the wire only.
struct LeaveRequest {
    PeerRef peer;
};
struct HoldRequest {
    PeerRef peer;
    Holding holding;
};
struct BucketQuery {
    std::string model;
    std::uint64_t version = 0;
    std::uint64_t bucket = 0;
    std::uint32_t count_max = 16;
};
struct BucketHolders {
    std::vector<PeerRef> peers;
};
struct ModelQuery {
    std::string model;
};
struct HistoryQuery {
    std::string model;
    std::string channel;
    std::uint32_t count_max = 100;
};
struct History {
    std::vector<ChannelMoved> moves;  // oldest first
};
struct ModelList {
    std::vector<ModelInfo> models;
};
struct PeerList {
    std::vector<PeerSummary> peers;
};
struct Nothing {};

// {"error":{"code":"...","message":"..."}}
std::string encode_error(const Error& error);
// The error of such a text; `fallback` with the text's beginning if it is something else.
Error decode_error(std::string_view text, Code fallback);

// Defined for every message of messages.h and the bodies above, and for Event without its kind,
// which a stream of events has outside of the text.
template <typename Message>
std::string encode(const Message& message);

// Defined for the same. Errors: invalid_input (names the field, or the place in the text).
template <typename Message>
Result<Message> decode(std::string_view text);

}  // namespace weightcast::registry
