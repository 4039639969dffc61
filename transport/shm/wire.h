// What a reader and a holder of one host say to each other over their Unix socket: fixed structs in
// native byte order, one per packet, at most one descriptor along with it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "base/unique_fd.h"
#include "fabric/fabric.h"

namespace weightcast::transport::shm {

using Key = std::array<std::byte, 16>;  // from the kernel's generator, so it cannot be guessed

inline constexpr std::uint32_t kMagic = 0x314D4853;  // "SHM1"
inline constexpr std::size_t kSlots = 65536;         // regions that one holder may export at once

enum class MessageType : std::uint32_t { hello = 1, hello_reply, open, open_reply };

struct Header {
    std::uint32_t magic = kMagic;
    MessageType type{};
};

struct Hello {
    Header header{kMagic, MessageType::hello};
    fabric::Incarnation reader{};
};

// Comes with the descriptor of the holder's ControlPage.
struct HelloReply {
    Header header{kMagic, MessageType::hello_reply};
    fabric::Incarnation holder{};
};

struct Open {
    Header header{kMagic, MessageType::open};
    Key key{};
};

enum class RegionKind : std::uint32_t {
    unknown,    // no region has this key
    mappable,   // memory of fixed size behind the descriptor that comes along
    file,       // a file behind the descriptor that comes along, which may shrink
    by_process  // memory of the holder's process only
};

struct OpenReply {
    Header header{kMagic, MessageType::open_reply};
    Key key{};
    RegionKind kind = RegionKind::unknown;
    std::uint32_t slot = 0;        // in the ControlPage
    std::uint64_t generation = 0;  // that the slot shows until the region is revoked
    std::uint64_t bytes = 0;
    std::uint64_t start = 0;  // offset in the descriptor, or address in the holder's process
};

// Written by the holder, mapped read-only by its readers.
struct ControlPage {
    // Generation of the region in each slot, 0: none. Generations are never used twice.
    std::array<std::atomic<std::uint64_t>, kSlots> generations;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// Sends one packet with `fd` unless that is -1. Returns 0 or errno; never blocks.
int send_packet(int socket, std::span<const std::byte> packet, int fd);

// Receives one packet and the descriptor that came with it. Returns its size, 0 if the other side
// has closed, or a negative errno; never blocks. A packet longer than `packet` is -EMSGSIZE, and
// a descriptor that found no free number here is -EMFILE.
std::ptrdiff_t receive_packet(int socket, std::span<std::byte> packet, UniqueFd& fd);

template <typename Message>
int send_message(int socket, const Message& message, int fd = -1) {
    static_assert(std::is_trivially_copyable_v<Message>);
    return send_packet(socket, std::as_bytes(std::span(&message, 1)), fd);
}

}  // namespace weightcast::transport::shm
