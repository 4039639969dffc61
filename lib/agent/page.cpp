#include "agent/page.h"

#include <fmt/core.h>

#include <atomic>
#include <bit>
#include <cstring>

#include "base/assert.h"

namespace weightcast::agent {
namespace {

static_assert(std::endian::native == std::endian::little, "the page is little-endian in place");

constexpr std::uint64_t kMagic = 0x314c494156414357;  // "WCAVAIL1"

// The header as it lies in memory.
struct Header {
    std::uint64_t magic;
    std::array<std::byte, 16> incarnation;
    std::uint64_t generation;
    std::uint32_t state;
    std::uint32_t chunk_count;
    std::uint32_t held;
    std::uint32_t reserved[5];
};
static_assert(sizeof(Header) == kPageHeaderBytes);

Header& header_of(const SharedMemory& memory) {
    return *reinterpret_cast<Header*>(memory.pages.data());
}

std::atomic_ref<std::uint64_t> word_of(const SharedMemory& memory, std::uint32_t chunk) {
    auto* words = reinterpret_cast<std::uint64_t*>(memory.pages.data() + kPageHeaderBytes);
    return std::atomic_ref<std::uint64_t>(words[chunk / 64]);
}

}  // namespace

Result<AvailabilityPage> AvailabilityPage::create(const std::array<std::byte, 16>& incarnation,
                                                  std::uint64_t generation,
                                                  std::uint32_t chunk_count) {
    AvailabilityPage page;
    WEIGHTCAST_TRY(page.memory_, SharedMemory::create("weightcast-page", page_bytes(chunk_count)));
    page.chunk_count_ = chunk_count;
    Header& header = header_of(page.memory_);
    header.incarnation = incarnation;
    header.generation = generation;
    header.chunk_count = chunk_count;
    if (chunk_count == 0) header.state = static_cast<std::uint32_t>(PageState::complete);
    header.magic = kMagic;
    return page;
}

void AvailabilityPage::set(std::uint32_t chunk) {
    WEIGHTCAST_ASSERT(chunk < chunk_count_);
    const std::uint64_t bit = std::uint64_t{1} << (chunk % 64);
    const auto before = word_of(memory_, chunk).fetch_or(bit, std::memory_order_release);
    if ((before & bit) != 0) return;
    Header& header = header_of(memory_);
    const auto held = std::atomic_ref(header.held).fetch_add(1, std::memory_order_acq_rel) + 1;
    if (held == chunk_count_) {
        std::atomic_ref(header.state)
            .store(static_cast<std::uint32_t>(PageState::complete), std::memory_order_release);
    }
}

void AvailabilityPage::set_all() {
    for (std::uint32_t chunk = 0; chunk < chunk_count_; ++chunk) set(chunk);
}

void AvailabilityPage::withdraw() {
    if (memory_.pages.size() == 0) return;  // it was never made
    Header& header = header_of(memory_);
    std::atomic_ref(header.generation).fetch_add(1, std::memory_order_acq_rel);
    std::atomic_ref(header.state)
        .store(static_cast<std::uint32_t>(PageState::withdrawn), std::memory_order_release);
}

bool AvailabilityPage::has(std::uint32_t chunk) const {
    return (word_of(memory_, chunk).load(std::memory_order_acquire) >> (chunk % 64) & 1U) != 0;
}

std::uint32_t AvailabilityPage::held() const {
    return std::atomic_ref(header_of(memory_).held).load(std::memory_order_acquire);
}

std::vector<std::byte> AvailabilityPage::bucket_bitmap(std::uint32_t chunks_per_bucket) const {
    const std::uint32_t buckets = (chunk_count_ + chunks_per_bucket - 1) / chunks_per_bucket;
    std::vector<std::byte> bitmap((buckets + 7) / 8);
    for (std::uint32_t bucket = 0; bucket < buckets; ++bucket) {
        bool whole = true;
        const std::uint32_t first = bucket * chunks_per_bucket;
        for (std::uint32_t i = 0; whole && i < chunks_per_bucket && first + i < chunk_count_; ++i) {
            whole = has(first + i);
        }
        if (whole) bitmap[bucket / 8] |= static_cast<std::byte>(1U << (bucket % 8));
    }
    return bitmap;
}

Result<PageView> parse_page(std::span<const std::byte> bytes, std::uint32_t chunk_count) {
    if (bytes.size() != page_bytes(chunk_count)) {
        return Error{Code::invalid_input, 0,
                     fmt::format("availability page has {} bytes instead of {}", bytes.size(),
                                 page_bytes(chunk_count))};
    }
    Header header;
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != kMagic) {
        return Error{Code::invalid_input, 0, "availability page has a wrong magic number"};
    }
    if (header.chunk_count != chunk_count || header.state > 2) {
        return Error{Code::invalid_input, 0,
                     fmt::format("availability page is of {} chunks instead of {}",
                                 header.chunk_count, chunk_count)};
    }
    PageView view{header.incarnation, header.generation, static_cast<PageState>(header.state),
                  chunk_count,        header.held,       {}};
    view.words.resize((bytes.size() - kPageHeaderBytes) / 8);
    std::memcpy(view.words.data(), bytes.data() + kPageHeaderBytes, bytes.size() - sizeof header);
    if (chunk_count % 64 != 0) view.words.back() &= (std::uint64_t{1} << (chunk_count % 64)) - 1;
    return view;
}

}  // namespace weightcast::agent
