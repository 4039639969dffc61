#include "perf/transfer/cell.h"

#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/random.h"
#include "base/worker_pool.h"

namespace weightcast::perf {
namespace {

constexpr std::uint64_t kBlockBytes = 1ULL << 20U;

void fill_block(std::span<std::byte> block, std::uint64_t index) {
    Random random(index + 1);
    for (std::size_t at = 0; at < block.size(); at += sizeof(std::uint64_t)) {
        const std::uint64_t value = random.next();
        std::memcpy(block.data() + at, &value, std::min(sizeof value, block.size() - at));
    }
}

double to_seconds(const ::timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

Result<Arena> make_arena(std::uint64_t bytes, bool is_private) {
    Arena arena;
    if (is_private) {
        void* address =
            ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (address == MAP_FAILED) return system_error(errno, "cannot map memory");
        arena.anonymous = Mapping(address, bytes);
    } else {
        WEIGHTCAST_TRY(arena.shared, SharedMemory::create("fabric-bench", bytes));
    }
    std::memset(arena.bytes().data(), 0xAA, bytes);
    return arena;
}

void fill(std::span<std::byte> bytes) {
    parallel_for((bytes.size() + kBlockBytes - 1) / kBlockBytes, [&](std::size_t i) {
        const std::size_t first = i * kBlockBytes;
        fill_block(bytes.subspan(first, std::min(kBlockBytes, bytes.size() - first)), i);
    });
}

std::vector<model::Digest> expected_digests(const Cell& cell) {
    std::vector<std::byte> bytes(cell.region_bytes);
    fill(bytes);
    std::vector<model::Digest> digests(cell.region_chunks());
    parallel_for(digests.size(), [&](std::size_t i) {
        digests[i] =
            model::digest_chunk(std::span(bytes).subspan(i * cell.chunk_bytes, cell.chunk_bytes));
    });
    return digests;
}

void print(const Cell& cell, double elapsed_s, double cpu_s) {
    const auto bytes = static_cast<double>(cell.chunks() * cell.chunk_bytes);
    fmt::print(
        "{{\"kind\":\"{}\",\"bytes\":{},\"region_bytes\":{},\"chunk_bytes\":{},\"window\":{},"
        "\"connections\":{},\"congestion_control\":\"{}\",\"verify\":{},\"private\":{},"
        "\"seconds\":{:.4f},\"cpu_seconds\":{:.4f},\"gbytes_per_s\":{:.3f}}}\n",
        cell.kind, cell.chunks() * cell.chunk_bytes, cell.region_bytes, cell.chunk_bytes,
        cell.window, cell.connections, cell.congestion_control, cell.verify, cell.private_source,
        elapsed_s, cpu_s, bytes / elapsed_s / 1e9);
}

double cpu_seconds() {
    ::rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return to_seconds(usage.ru_utime) + to_seconds(usage.ru_stime);
}

}  // namespace weightcast::perf
