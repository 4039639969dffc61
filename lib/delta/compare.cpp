#include "delta/compare.h"

#include <bit>
#include <cstring>

#include "base/assert.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weightcast::delta {
namespace {

// While positions are taken, the memory would else be idle. Harmless behind the end of a chunk.
template <std::size_t kElement>
inline void prefetch_next_block(const std::byte* before, const std::byte* after) {
    __builtin_prefetch(before + kBlockElements * kElement);
    __builtin_prefetch(after + kBlockElements * kElement);
}

// For fewer than 64 elements.
template <std::size_t kElement>
std::uint64_t compare_rest(const std::byte* before, const std::byte* after, std::size_t elements) {
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < elements; ++i) {
        const std::size_t at = i * kElement;
        word |= std::uint64_t{std::memcmp(before + at, after + at, kElement) != 0} << i;
    }
    return word;
}

// The elements that eight bytes hold are compared at once. A lane that is not 0 gets its highest
// bit set by adding to its other bits, which carries into no other lane. The multiplication then
// moves lane i's bit to the i-th place of the uppermost ones.
template <std::size_t kElement>
std::uint64_t compare_word(const std::byte* before, const std::byte* after) {
    constexpr std::size_t kLanes = 8 / kElement;
    constexpr std::size_t kLaneBits = 8 * kElement;
    constexpr std::uint64_t kLowest = ~std::uint64_t{0} / (~std::uint64_t{0} >> (64 - kLaneBits));
    constexpr std::uint64_t kHighest = kLowest << (kLaneBits - 1);
    constexpr std::uint64_t kGather = [] {
        std::uint64_t factor = 0;
        for (std::size_t i = 0; i < kLanes; ++i) {
            factor |= std::uint64_t{1} << (64 - kLanes - (kLaneBits - 1) * i);
        }
        return factor;
    }();
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < kWordBits; i += kLanes) {
        const std::uint64_t lanes =
            load_u64(before + i * kElement) ^ load_u64(after + i * kElement);
        const std::uint64_t differs = (((lanes & ~kHighest) + ~kHighest) | lanes) & kHighest;
        word |= (differs >> (kLaneBits - 1)) * kGather >> (64 - kLanes) << i;
    }
    return word;
}

bool all_differ(std::size_t elements, const Changes& changes) {
    std::uint64_t all = ~std::uint64_t{0};
    for (std::size_t i = 0; i < elements / kWordBits; ++i) all &= changes.bitmap[i];
    const std::size_t rest = elements % kWordBits;
    if (rest > 0) all &= changes.bitmap[elements / kWordBits] | ~std::uint64_t{0} << rest;
    return all == ~std::uint64_t{0};
}

template <std::size_t kElement>
void compare_portable(const std::byte* before, const std::byte* after, std::size_t elements,
                      Changes& changes) {
    const std::size_t whole = elements / kWordBits;
    constexpr std::size_t kStep = kWordBits * kElement;
    changes.bitmap.fill(0);
    for (std::size_t i = 0; i < whole; ++i) {
        changes.bitmap[i] = compare_word<kElement>(before + i * kStep, after + i * kStep);
    }
    if (elements % kWordBits > 0) {
        changes.bitmap[whole] = compare_rest<kElement>(before + whole * kStep,
                                                       after + whole * kStep, elements % kWordBits);
    }
    changes.count = elements;
    if (all_differ(elements, changes)) return;
    changes.count = 0;
    for (std::size_t i = 0; i < changes.bitmap.size(); ++i) {
        for (std::uint64_t bits = changes.bitmap[i]; bits != 0; bits &= bits - 1) {
            const auto bit = static_cast<std::size_t>(std::countr_zero(bits));
            changes.positions[changes.count++] = static_cast<std::uint16_t>(i * kWordBits + bit);
        }
    }
}

#if defined(__x86_64__)

#define WEIGHTCAST_AVX2 __attribute__((target("avx2,bmi,popcnt")))

WEIGHTCAST_AVX2 inline __m256i load_vector(const std::byte* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

WEIGHTCAST_AVX2 inline __m256i equal_16(const std::byte* before, const std::byte* after) {
    return _mm256_cmpeq_epi16(load_vector(before), load_vector(after));
}

// A bit for each equal one of the next elements: 32 of one or two bytes, or a vector of larger
// ones.
template <std::size_t kElement>
WEIGHTCAST_AVX2 inline std::uint32_t equal_bits(const std::byte* before, const std::byte* after) {
    if constexpr (kElement == 2) {
        // Packing works within halves of a vector, so the quarters in the middle change places.
        const __m256i packed =
            _mm256_packs_epi16(equal_16(before, after), equal_16(before + 32, after + 32));
        const __m256i in_order = _mm256_permute4x64_epi64(packed, 0xD8);
        return static_cast<std::uint32_t>(_mm256_movemask_epi8(in_order));
    }
    const __m256i a = load_vector(before);
    const __m256i b = load_vector(after);
    if constexpr (kElement == 1) {
        return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)));
    } else if constexpr (kElement == 4) {
        const __m256 equal = _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b));
        return static_cast<std::uint32_t>(_mm256_movemask_ps(equal));
    } else {
        const __m256d equal = _mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b));
        return static_cast<std::uint32_t>(_mm256_movemask_pd(equal));
    }
}

// Puts the lowest bit's position, and takes the bit away.
WEIGHTCAST_AVX2 inline std::uint64_t take_lowest(std::uint64_t bits, std::size_t first,
                                                 std::uint16_t* to) {
    *to = static_cast<std::uint16_t>(first + _tzcnt_u64(bits));
    return _blsr_u64(bits);
}

// Takes four positions at a time, needed or not: branches that depend on the weights cost more.
WEIGHTCAST_AVX2 void take_positions_avx2(Changes& changes) {
    std::uint16_t* to = changes.positions.data();
    for (std::size_t i = 0; i < changes.bitmap.size(); ++i) {
        const std::size_t first = i * kWordBits;
        std::uint64_t bits = changes.bitmap[i];
        std::uint16_t* next = to + _mm_popcnt_u64(bits);
        do {
            bits = take_lowest(bits, first, to);
            bits = take_lowest(bits, first, to + 1);
            bits = take_lowest(bits, first, to + 2);
            bits = take_lowest(bits, first, to + 3);
            to += 4;
        } while (bits != 0);
        to = next;
    }
    changes.count = static_cast<std::size_t>(to - changes.positions.data());
}

template <std::size_t kElement>
WEIGHTCAST_AVX2 void compare_avx2(const std::byte* before, const std::byte* after,
                                  std::size_t elements, Changes& changes) {
    constexpr std::size_t kStep = kElement <= 2 ? 32 : 32 / kElement;  // elements at a time
    const std::size_t whole = elements / kWordBits;
    changes.bitmap.fill(0);
    for (std::size_t i = 0; i < whole; ++i) {
        std::uint64_t equal = 0;
        for (std::size_t k = 0; k < kWordBits; k += kStep) {
            const std::size_t at = (i * kWordBits + k) * kElement;
            prefetch_next_block<kElement>(before + at, after + at);
            equal |= std::uint64_t{equal_bits<kElement>(before + at, after + at)} << k;
        }
        changes.bitmap[i] = ~equal;
    }
    if (elements % kWordBits > 0) {
        const std::size_t at = whole * kWordBits * kElement;
        changes.bitmap[whole] =
            compare_rest<kElement>(before + at, after + at, elements % kWordBits);
    }
    changes.count = elements;
    if (!all_differ(elements, changes)) take_positions_avx2(changes);
}

#endif

std::size_t width_index(std::size_t element_bytes) {
    WEIGHTCAST_ASSERT(std::has_single_bit(element_bytes) && element_bytes <= 8);
    return static_cast<std::size_t>(std::countr_zero(element_bytes));
}

}  // namespace

Compare compare_portable_for(std::size_t element_bytes) {
    constexpr std::array<Compare, 4> kByWidth{compare_portable<1>, compare_portable<2>,
                                              compare_portable<4>, compare_portable<8>};
    return kByWidth[width_index(element_bytes)];
}

Compare compare_for(std::size_t element_bytes) {
#if defined(__x86_64__)
    constexpr std::array<Compare, 4> kByWidth{compare_avx2<1>, compare_avx2<2>, compare_avx2<4>,
                                              compare_avx2<8>};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("popcnt")) {
        return kByWidth[width_index(element_bytes)];
    }
#endif
    return compare_portable_for(element_bytes);
}

}  // namespace weightcast::delta
