// What one run of fabric-bench measures, and the memory that it moves.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "model/digest.h"
#include "weightcast/result.h"

namespace weightcast::perf {

struct Cell {
    std::string kind;  // a fabric, or one of the baselines
    std::uint64_t total_bytes = 1ULL << 30U;
    std::uint64_t region_bytes = 1ULL << 30U;  // read round and round until the total is reached
    std::uint64_t chunk_bytes = 1ULL << 20U;
    std::uint64_t window = 8;       // chunks in flight
    std::uint64_t connections = 1;  // tcp
    std::string congestion_control;
    std::string device;           // verbs: of the reader
    std::string holder_device;    // verbs
    bool verify = false;          // digest each chunk on worker threads before it counts
    bool private_source = false;  // memory without a descriptor

    std::uint64_t chunks() const { return total_bytes / chunk_bytes; }
    std::uint64_t region_chunks() const { return region_bytes / chunk_bytes; }
};

// Warm memory: every page has been written.
struct Arena {
    SharedMemory shared;
    Mapping anonymous;
    std::span<std::byte> bytes() const {
        return shared.fd ? shared.pages.span() : anonymous.span();
    }
};
Result<Arena> make_arena(std::uint64_t bytes, bool is_private);

// Bytes that tell chunks apart, the same in every process.
void fill(std::span<std::byte> bytes);
// Of each chunk of the filled region.
std::vector<model::Digest> expected_digests(const Cell& cell);

// Prints the cell and its rate as one JSON object.
void print(const Cell& cell, double elapsed_s, double cpu_s);
// User and system time of all threads of this process so far.
double cpu_seconds();

// Copies the region with one thread: in one call a pass, or chunk by chunk.
Result<void> run_memcpy(const Cell& cell);
// One process sends the region over a loopback connection, another receives it into place, both
// with plain blocking calls: what TCP can do with bytes that are not in a cache.
Result<void> run_socket(const Cell& cell);

}  // namespace weightcast::perf
