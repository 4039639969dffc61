// The requests of one connection whose gates are closed.
//
// Thread-bound, to the thread that holds the table's Serving.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/tcp/region_table.h"
#include "transport/tcp/ring.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {

// A request that waits to be answered.
struct Answerable {
    Request request;
    bool denied = false;  // by its gate; else the request is still to be checked
};

class ParkedRequests {
  public:
    explicit ParkedRequests(RegionTable& regions) : regions_(regions) {}

    std::size_t size() const { return parked_.size(); }
    bool empty() const { return parked_.empty(); }
    // REQUIRES: !empty()
    std::uint64_t oldest_sequence() const { return parked_.front().request.sequence; }

    // Whatever its gate is; look() tells.
    void add(const Request& request, const Gate& gate) { parked_.push_back({request, gate}); }

    // Moves to `answerable`, in the order in which they came, the requests whose gates are open,
    // and as denied those that cannot be answered any more: there is no such bit or region, or the
    // gate is of a file, whose pages may be missing. Allocates nothing in a steady state.
    void look(Ring<Answerable>& answerable) { look_from(0, answerable); }
    // The same for those that were added since the last look.
    void look_at_new(Ring<Answerable>& answerable) { look_from(looked_, answerable); }

  private:
    enum class GateState : std::uint8_t { closed, open, denied };
    struct Parked {
        Request request;
        Gate gate;
        GateState state = GateState::closed;
    };

    void look_from(std::size_t first, Ring<Answerable>& answerable);
    void check_gates(std::size_t first);
    void check_regions(std::size_t first);

    RegionTable& regions_;
    std::vector<Parked> parked_;     // in the order in which they came
    std::size_t looked_ = 0;         // so many of them are known to have been closed once
    std::uint64_t revocations_ = 0;  // of the table, when all regions were last known to be there
};

bool is_inside(const fabric::Memory& region, const Request& request);

}  // namespace weightcast::transport::tcp
