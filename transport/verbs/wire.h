// What peers of the verbs fabric say to each other, byte-exact as docs/wire_verbs.md says: the
// private data of connection requests, the out-of-band exchange, keys and addresses. Pure;
// thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/socket.h"
#include "fabric/fabric.h"

namespace weightcast::transport::verbs {

inline constexpr std::uint16_t kProtocolVersion = 1;
inline constexpr std::size_t kRailsMax = 8;
inline constexpr std::size_t kHelloBytes = 52;  // librdmacm carries up to 56
inline constexpr std::size_t kWelcomeBytes = 28;
inline constexpr std::size_t kPairAddressBytes = 28;
inline constexpr std::uint32_t kPairNumberMax = 0xFFFFFF;  // of queue pairs and packets: 24 bits

// Reader to holder, with the request for a connection.
struct Hello {
    std::uint16_t protocol = kProtocolVersion;
    std::uint8_t rail = 0;           // of the holder
    std::uint8_t mtu = 0;            // as enum ibv_mtu
    fabric::Incarnation expected{};  // of the holder
    fabric::Incarnation reader{};    // of the reader
    std::uint32_t lane = 0;          // of the reader: which of its connections this is
    std::uint32_t generation = 0;    // of the lane: a newer connection replaces an older one
    std::uint32_t probe_key = 0;     // of 8 bytes at address 0 that the holder may READ
    bool operator==(const Hello&) const = default;
};

enum class Verdict : std::uint8_t {
    accepted = 0,
    stale_peer = 1,      // the holder is another incarnation
    wrong_protocol = 2,  // `protocol` says which one the holder speaks
    busy = 3,            // too many connections
    no_rail = 4,         // the holder has no such rail
    failed = 5,          // the holder could not set its queue pair up
};
const char* to_string(Verdict verdict) noexcept;

// Holder to reader, with the answer to the request.
struct Welcome {
    std::uint16_t protocol = kProtocolVersion;
    Verdict verdict = Verdict::accepted;
    std::uint8_t mtu = 0;               // the smaller of both sides', as enum ibv_mtu
    fabric::Incarnation incarnation{};  // of the holder
    std::uint8_t serve_depth = 0;       // READs that it answers at a time
    bool operator==(const Welcome&) const = default;
};

// Where a queue pair is reached, for the exchange without librdmacm.
struct PairAddress {
    std::uint32_t number = 0;  // 24 bits
    std::uint32_t packet = 0;  // number of the first packet, 24 bits
    std::uint16_t lid = 0;     // 0 on Ethernet
    std::array<std::byte, 16> gid{};
    bool operator==(const PairAddress&) const = default;
};

void encode(const Hello& hello, std::span<std::byte, kHelloBytes> out);
void encode(const Welcome& welcome, std::span<std::byte, kWelcomeBytes> out);
void encode(const PairAddress& address, std::span<std::byte, kPairAddressBytes> out);

// Each looks at the first bytes of a message that may be padded. Nothing if it is no such message;
// any protocol version is taken, so that the receiver can name it.
std::optional<Hello> decode_hello(std::span<const std::byte> bytes);
std::optional<Welcome> decode_welcome(std::span<const std::byte> bytes);
std::optional<PairAddress> decode_pair_address(std::span<const std::byte> bytes);

// Remote keys in one region key, of all slices and rails together.
inline constexpr std::size_t kRemoteKeysMax = 240;

// Registered memory of a holder. Large memory is registered in slices of a power of two bytes, and
// each has a remote key for each of the holder's rails.
struct RegionKeyParts {
    std::uint64_t base = 0;  // address for the holder's devices
    std::uint64_t bytes = 0;
    std::uint8_t rails = 0;
    std::uint8_t slice_shift = 63;
    std::vector<std::uint32_t> keys;  // slice by slice, by rail within
};
fabric::RegionKey encode_key(const RegionKeyParts& parts);

// A region key that was checked, where it lies. Borrows the bytes.
class KeyView {
  public:
    KeyView() = default;
    // Nothing if it is no region key of this transport.
    static std::optional<KeyView> parse(std::span<const std::byte> bytes);

    std::uint64_t base() const { return base_; }
    std::uint64_t bytes() const { return bytes_; }
    std::size_t rails() const { return rails_; }
    // REQUIRES: offset < bytes(), rail < rails()
    std::uint32_t remote_key(std::uint64_t offset, std::size_t rail) const;
    // From the offset to the end of its slice.
    std::uint64_t slice_left(std::uint64_t offset) const {
        return (((offset >> slice_shift_) + 1) << slice_shift_) - offset;
    }
    std::span<const std::byte> encoded() const { return encoded_; }

  private:
    std::span<const std::byte> encoded_;
    std::uint64_t base_ = 0;
    std::uint64_t bytes_ = 0;
    std::size_t rails_ = 0;
    unsigned slice_shift_ = 0;
};

// "verbs://RAIL[,RAIL...][/CONTROL]": for each rail HOST:PORT for librdmacm, or "-" where it has no
// IP address; CONTROL is HOST:PORT of the out-of-band exchange.
struct HolderAddress {
    std::vector<std::optional<SocketAddress>> rails;  // at most kRailsMax
    std::optional<SocketAddress> control;

    std::string text() const;
    // Nothing if `text` is not such an address, or names no way to connect.
    static std::optional<HolderAddress> parse(std::string_view text);
};

}  // namespace weightcast::transport::verbs
