#include "sim/availability.h"

namespace weightcast::sim {

Availability::Availability(std::uint32_t chunks, bool all)
    : chunks_(chunks), words_((chunks + 63) / 64) {
    for (std::uint32_t chunk = 0; all && chunk < chunks; ++chunk) set(chunk);
}

bool Availability::set(std::uint32_t chunk) {
    if (has(chunk)) return false;
    words_[chunk / 64] |= std::uint64_t{1} << (chunk % 64);
    ++held_;
    return true;
}

}  // namespace weightcast::sim
