#include "transport/shm/copy.h"

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace weightcast::transport::shm {

#if defined(__SSE2__)

namespace {

constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kAheadBytes = 1024;  // prefetched; past the end it has no effect

void copy_line(std::byte* to, const std::byte* from) {
    const auto* in = reinterpret_cast<const __m128i*>(from);
    auto* out = reinterpret_cast<__m128i*>(to);
    _mm_prefetch(reinterpret_cast<const char*>(from + kAheadBytes), _MM_HINT_NTA);
    const __m128i first = _mm_loadu_si128(in);
    const __m128i second = _mm_loadu_si128(in + 1);
    const __m128i third = _mm_loadu_si128(in + 2);
    const __m128i fourth = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, first);
    _mm_stream_si128(out + 1, second);
    _mm_stream_si128(out + 2, third);
    _mm_stream_si128(out + 3, fourth);
}

}  // namespace

void copy_past_cache(std::byte* to, const std::byte* from, std::size_t bytes) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(to) % kLineBytes;
    const std::size_t head = misaligned == 0 ? 0 : kLineBytes - misaligned;
    if (bytes < head + kLineBytes) {
        std::memcpy(to, from, bytes);
        return;
    }
    std::memcpy(to, from, head);
    std::size_t done = head;
    for (; bytes - done >= kLineBytes; done += kLineBytes) copy_line(to + done, from + done);
    _mm_sfence();
    std::memcpy(to + done, from + done, bytes - done);
}

#else

void copy_past_cache(std::byte* to, const std::byte* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
}

#endif

}  // namespace weightcast::transport::shm
