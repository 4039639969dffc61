#include "transport/tcp/parked_requests.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <optional>

namespace weightcast::transport::tcp {
namespace {

static_assert(std::endian::native == std::endian::little, "bit i is bit i % 8 of byte i / 8");

// Regions of consecutive requests are mostly the same; each change costs a lock and a look-up.
class ServingOfLast {
  public:
    explicit ServingOfLast(RegionTable& regions) : regions_(regions) {}
    const RegionTable::Serving& operator()(const RegionId& id) {
        if (!serving_ || id != id_) {
            serving_.emplace(regions_, id);
            id_ = id;
        }
        return *serving_;
    }

  private:
    RegionTable& regions_;
    RegionId id_{};
    std::optional<RegionTable::Serving> serving_;
};

// REQUIRES: the bit is inside. Acquires what its setter released.
bool is_set(std::span<std::byte> bytes, std::uint64_t bit) {
    const auto byte = static_cast<std::size_t>(bit / 8);
    // Setters set bits of whole words, so that the word is read where it is all there.
    const std::size_t in_word = (reinterpret_cast<std::uintptr_t>(bytes.data()) + byte) % 8;
    if (in_word <= byte && byte - in_word + 8 <= bytes.size()) {
        auto* word = reinterpret_cast<std::uint64_t*>(&bytes[byte - in_word]);
        const auto value = std::atomic_ref(*word).load(std::memory_order_acquire);
        return (value >> (in_word * 8 + bit % 8) & 1U) != 0;
    }
    auto* single = reinterpret_cast<std::uint8_t*>(&bytes[byte]);
    return (std::atomic_ref(*single).load(std::memory_order_acquire) >> (bit % 8) & 1U) != 0;
}

}  // namespace

void ParkedRequests::look_from(std::size_t first, Ring<Answerable>& answerable) {
    // Revoked regions are rare, and looking each up again is dear where requests are many.
    const std::uint64_t revocations = regions_.revocations();
    check_regions(revocations == revocations_ ? std::max(first, looked_) : first);
    if (first == 0) revocations_ = revocations;
    check_gates(first);
    // Mostly none has changed, and then nothing is moved.
    const auto changed =
        std::find_if(parked_.begin() + static_cast<std::ptrdiff_t>(first), parked_.end(),
                     [](const Parked& parked) { return parked.state != GateState::closed; });
    auto kept = static_cast<std::size_t>(changed - parked_.begin());
    for (std::size_t i = kept; i < parked_.size(); ++i) {
        const Parked& parked = parked_[i];
        if (parked.state == GateState::closed) {
            parked_[kept++] = parked;
        } else {
            answerable.push({parked.request, parked.state == GateState::denied});
        }
    }
    parked_.resize(kept);
    looked_ = kept;
}

void ParkedRequests::check_regions(std::size_t first) {
    ServingOfLast region(regions_);
    for (std::size_t i = first; i < parked_.size(); ++i) {
        Parked& parked = parked_[i];
        const auto& data = region(parked.request.region);
        if (!data || !is_inside(*data, parked.request)) parked.state = GateState::denied;
    }
}

void ParkedRequests::check_gates(std::size_t first) {
    ServingOfLast region(regions_);
    for (std::size_t i = first; i < parked_.size(); ++i) {
        Parked& parked = parked_[i];
        if (parked.state == GateState::denied) continue;
        const auto& gate = region(parked.gate.region);
        if (!gate || gate->fd_may_shrink || parked.gate.bit / 8 >= gate->bytes.size()) {
            parked.state = GateState::denied;
        } else if (is_set(gate->bytes, parked.gate.bit)) {
            parked.state = GateState::open;
        }
    }
}

bool is_inside(const fabric::Memory& region, const Request& request) {
    const std::uint64_t size = region.bytes.size();
    return request.bytes > 0 && request.offset <= size && request.bytes <= size - request.offset;
}

}  // namespace weightcast::transport::tcp
