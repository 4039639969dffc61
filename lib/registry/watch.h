// Tells when a channel moves, within milliseconds and without polling: over the registry's event
// stream, on a connection of its own that is made again, with jittered back-off, when it breaks.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "registry/client.h"
#include "registry/messages.h"
#include "weightcast/result.h"

namespace weightcast::registry {

class ChannelWatch {
  public:
    virtual ~ChannelWatch() = default;

    // Waits until the channel is at another generation than `known` (0: until it exists), and says
    // where it is; nothing if that did not happen within `wait`. What moved while nobody was
    // connected, and what events told of it were missed, is found by reading the channel again.
    // A registry that cannot be reached is tried again until `wait` is over.
    // Errors: cancelled; refused (the token). REQUIRES: one call at a time
    virtual Result<std::optional<ChannelInfo>> next(std::uint64_t known,
                                                    std::chrono::milliseconds wait) = 0;
    // From any thread: next() fails with Code::cancelled, now and from now on.
    virtual void cancel() = 0;
    // Why the registry could not be reached the last time it was tried; empty: it could.
    virtual const std::string& trouble() const = 0;
};

// Does not connect yet. Errors: invalid_input (the URL).
Result<std::unique_ptr<ChannelWatch>> watch_channel(const ClientOptions& options,
                                                    const std::string& model,
                                                    const std::string& channel);

}  // namespace weightcast::registry
