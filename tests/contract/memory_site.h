// A Site whose peers are those of a MemoryWorld.
#pragma once

#include <cstdint>
#include <memory>

#include "tests/contract/fabrics.h"

namespace weightcast::contract {

std::unique_ptr<Site> make_memory_site(std::uint64_t seed);

}  // namespace weightcast::contract
