// Brings something to what a channel names, again and again: a directory, or weights in memory.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "base/clock.h"
#include "base/random.h"
#include "registry/messages.h"
#include "registry/watch.h"
#include "weightcast/result.h"

namespace weightcast::agent {

// What follows. Called by one thread.
class FollowTarget {
  public:
    virtual ~FollowTarget() = default;
    // Gets all ready for flip(). A stop is requested as soon as the channel has moved on: then the
    // rest is not wanted any more, but what is there already may be of use for the next version.
    virtual Result<void> stage(const registry::ChannelInfo& to, const std::stop_token& stop) = 0;
    // Makes what was staged last the current version. On an error the one before stays.
    // Not if a stop was requested while it waited.
    virtual Result<void> flip(const registry::ChannelInfo& to, const std::stop_token& stop) = 0;
    // One of these failed, though the channel still names that version: it is tried again. Or the
    // channel moves on faster than versions can be had.
    virtual void on_trouble(const registry::ChannelInfo& to, const Error& error) = 0;
};

class FollowLoop {
  public:
    // Asks the registry where the channel is now; an error if it does not answer.
    using Ask = std::function<Result<registry::ChannelInfo>()>;
    // Which registry that is: a lost store comes back as another cluster, and counts generations
    // from the beginning.
    using Cluster = std::function<std::string()>;
    // Of a channel with a canary: the version that this follower gets.
    using Choose = std::function<std::uint64_t(const registry::ChannelInfo&)>;

    // Borrows `target`, which is told of the version that was chosen.
    FollowLoop(std::unique_ptr<registry::ChannelWatch> watch, Ask ask, Cluster cluster,
               Choose choose, FollowTarget& target);

    // Follows until a stop is requested. Only to higher generations of a cluster, and only to one
    // that is still the newest when all is ready: a process that was stopped meanwhile must not
    // flip to what was rolled back. After several versions in a row that were superseded on their
    // way, one is flipped to although there are newer ones, unless the channel has gone back.
    // Errors: refused (the registry refuses the token).
    Result<void> run(const std::stop_token& stop);

  private:
    void watch();
    // False: this is an older generation, and perhaps not known yet to be of another cluster.
    bool on_move(const registry::ChannelInfo& to);
    Result<void> bring(const registry::ChannelInfo& to, const std::stop_token& superseded);

    std::unique_ptr<registry::ChannelWatch> watch_;
    Ask ask_;
    Cluster cluster_;
    Choose choose_;
    FollowTarget& target_;
    Random random_;

    std::mutex mutex_;  // guards the rest
    std::condition_variable_any wake_;
    std::optional<registry::ChannelInfo> newest_;
    std::string newest_of_;             // the cluster of that
    std::uint64_t reached_ = 0;         // the generation of the last flip
    std::uint64_t staged_version_ = 0;  // that is on its way
    std::uint32_t superseded_ = 0;      // versions in a row that were
    std::optional<Error> failure_;
    std::stop_source staging_;
};

}  // namespace weightcast::agent
