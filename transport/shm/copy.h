// Copies memory that is seldom read again soon.
#pragma once

#include <cstddef>

namespace weightcast::transport::shm {

// As memcpy, but the destination is written past the caches, where the processor can do that. It
// saves reading the destination's lines before they are overwritten, a third of the traffic of a
// copy that is larger than the caches. The writes are ordered before whatever follows. Reentrant.
void copy_past_cache(std::byte* to, const std::byte* from, std::size_t bytes);

}  // namespace weightcast::transport::shm
