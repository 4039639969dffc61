#include "transport/memory/world.h"

#include <fmt/core.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/assert.h"

namespace weightcast::transport {
namespace {

using fabric::ReadStatus;

bool is_inside(const fabric::Memory* region, const fabric::Read& read) {
    if (region == nullptr) return false;
    const std::uint64_t size = region->bytes.size();
    return read.remote_offset <= size && read.bytes <= size - read.remote_offset;
}

// Where the memory may shrink it is read through its descriptor, so that no page is missing.
bool read_file(const fabric::Memory& memory, std::uint64_t offset, std::span<std::byte> local) {
    while (!local.empty()) {
        const ssize_t got = ::pread(memory.fd, local.data(), local.size(),
                                    static_cast<::off_t>(memory.fd_offset + offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        offset += static_cast<std::uint64_t>(got);
        local = local.subspan(static_cast<std::size_t>(got));
    }
    return true;
}

}  // namespace

const fabric::Memory* MemoryWorld::State::find(const std::string& owner,
                                               std::span<const std::byte> key) const {
    const auto found = regions.find(fabric::RegionKey(key.begin(), key.end()));
    if (found == regions.end() || found->second.owner != owner) return nullptr;
    return &found->second.memory;
}

MemoryWorld::State::Gate MemoryWorld::State::gate(const std::string& owner,
                                                  const fabric::Read& read) const {
    if (read.gate.empty()) return Gate::open;
    const fabric::Memory* region = find(owner, read.gate);
    const auto byte = static_cast<std::size_t>(read.gate_bit / 8);
    if (region == nullptr || region->fd_may_shrink || byte >= region->bytes.size()) {
        return Gate::denied;
    }
    if (!is_inside(find(owner, read.key), read)) return Gate::denied;
    auto& bits = reinterpret_cast<std::uint8_t&>(region->bytes[byte]);
    const auto value = std::atomic_ref(bits).load(std::memory_order_acquire);
    return (value >> (read.gate_bit % 8) & 1U) != 0 ? Gate::open : Gate::closed;
}

ReadStatus MemoryWorld::State::copy(const std::string& owner, const fabric::Read& read) {
    const fabric::Memory* region = find(owner, read.key);
    if (!is_inside(region, read)) return ReadStatus::access_denied;
    const fabric::Memory& memory = *region;
    const auto local = read.local->bytes().subspan(static_cast<std::size_t>(read.local_offset),
                                                   static_cast<std::size_t>(read.bytes));
    if (memory.fd_may_shrink) {
        if (!read_file(memory, read.remote_offset, local)) return ReadStatus::remote_fault;
    } else {
        std::memcpy(local.data(), memory.bytes.data() + read.remote_offset, local.size());
    }
    Peer& peer = *peers.at(owner);
    ++peer.reads;
    peer.bytes_served += read.bytes;
    const bool by_chance = peer.faults.corruption > 0 && random.unit() < peer.faults.corruption;
    if (by_chance || peer.reads == peer.faults.corrupt_read) {
        const auto at = static_cast<std::size_t>(random.below(local.size()));
        local[at] ^= std::byte{1} << static_cast<unsigned>(random.below(8));
    }
    return ReadStatus::ok;
}

fabric::RegionKey MemoryWorld::State::new_key() {
    fabric::RegionKey key(16);
    do {
        const std::uint64_t words[2] = {random.next(), random.next()};
        std::memcpy(key.data(), words, sizeof words);
    } while (regions.contains(key));
    return key;
}

MemoryWorld::MemoryWorld(std::uint64_t seed, const Clock* clock)
    : state_(std::make_shared<State>(seed, clock)) {}

MemoryWorld::~MemoryWorld() = default;

MemoryFaults& MemoryWorld::faults(const std::string& address) {
    const auto found = state_->peers.find(address);
    WEIGHTCAST_ASSERT(found != state_->peers.end());
    return found->second->faults;
}

void MemoryWorld::kill(const std::string& address) {
    const auto found = state_->peers.find(address);
    if (found != state_->peers.end()) found->second->alive = false;
    expire_keys(address);
}

void MemoryWorld::pause(const std::string& address) {
    const auto found = state_->peers.find(address);
    if (found != state_->peers.end()) found->second->paused = true;
}

void MemoryWorld::resume(const std::string& address) {
    const auto found = state_->peers.find(address);
    if (found != state_->peers.end()) found->second->paused = false;
}

void MemoryWorld::expire_keys(const std::string& address) {
    std::erase_if(state_->regions, [&](const auto& r) { return r.second.owner == address; });
}

}  // namespace weightcast::transport
