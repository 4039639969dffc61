// Which version of a channel a peer gets while another one is on trial.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "registry/messages.h"

namespace weightcast::registry {

// The canary's version for a peer that has all its labels, and whose name is among its percent;
// else the channel's. The part of the names: the first 8 bytes of the SHA-256 of "MODEL/NAME", as
// a big-endian number, modulo 100, below the percent. So a peer keeps its side while it keeps its
// name, and those of 10 % are among those of 50 %.
std::uint64_t version_for(const ChannelInfo& channel, const std::string& name,
                          const std::map<std::string, std::string>& labels);

// Whether a channel names a version for anybody.
bool names(const ChannelInfo& channel, std::uint64_t version);

}  // namespace weightcast::registry
