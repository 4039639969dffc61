// What the registry must not forget, as facts: written to the store first, then applied.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "registry/messages.h"

namespace weightcast::registry {

struct VersionPublished {
    VersionInfo version;  // without counts of holders
};

// `quarantined` of a version was set, or taken back by publishing the same bytes again.
struct QuarantineSet {
    std::string model;
    std::uint64_t version = 0;
    bool quarantined = false;
};

// Nobody can have the version any more. Its number and digest are kept, so that it never means
// other bytes; publishing the same again brings it back.
struct VersionRetired {
    std::string model;
    std::uint64_t version = 0;
    model::Digest root;
};

using Change = std::variant<VersionPublished, ChannelMoved, QuarantineSet, VersionRetired>;

// A command that was decided but is not done: `reply` may be given once `changes` are durable and
// applied.
template <typename Reply>
struct Planned {
    std::vector<Change> changes;
    Reply reply;
};

}  // namespace weightcast::registry
