// Which peers call over which connections: a peer whose last connection ends may have died. Pure,
// thread-bound.
#pragma once

#include <cstdint>
#include <unordered_map>

namespace weightcast::registry {

class PeerConnections {
  public:
    // Who calls over a connection.
    struct Caller {
        std::uint64_t peer = 0;  // 0: nobody yet
        bool several = false;    // and others
    };

    // The connection is used by this peer. One that others use, too, as a proxy's may be, says
    // nothing of who lives.
    void called(Caller& caller, std::uint64_t peer) {
        if (peer == caller.peer || caller.several) return;
        if (caller.peer == 0) {
            caller.peer = peer;
            ++connections_[peer];
            return;
        }
        caller.several = true;
        release(caller.peer);
    }

    // The connection has ended. Gives the peer that has no other one; 0: none.
    std::uint64_t ended(const Caller& caller) {
        if (caller.peer == 0 || caller.several) return 0;
        return release(caller.peer) ? caller.peer : 0;
    }

  private:
    bool release(std::uint64_t peer) {
        const auto found = connections_.find(peer);
        if (--found->second > 0) return false;
        connections_.erase(found);
        return true;
    }

    std::unordered_map<std::uint64_t, std::uint32_t> connections_;
};

}  // namespace weightcast::registry
