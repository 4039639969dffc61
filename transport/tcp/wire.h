// Frames of the tcp fabric, byte-exact as docs/wire_tcp.md says. Pure; thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "fabric/fabric.h"

namespace weightcast::transport::tcp {

inline constexpr std::uint32_t kProtocolVersion = 3;
inline constexpr std::size_t kHelloBytes = 48;
inline constexpr std::size_t kWelcomeBytes = 32;
inline constexpr std::size_t kRequestBytes = 48;
inline constexpr std::size_t kGateBytes = 24;
inline constexpr std::size_t kFrameBytes = 16;
inline constexpr std::size_t kKeyBytes = 20;
// Payload of one data frame, at most.
inline constexpr std::uint32_t kSliceBytesMax = 1U << 20U;

using RegionId = std::array<std::byte, 16>;  // random, so that it cannot be guessed

// Reader to holder, once, first.
struct Hello {
    std::uint32_t protocol = kProtocolVersion;
    fabric::Incarnation expected{};  // of the holder
    fabric::Incarnation own{};       // of the reader
};

enum class WelcomeStatus : std::uint32_t { ok = 0, stale_peer = 1, wrong_protocol = 2 };

// Holder to reader, the answer to Hello. Unless ok, the holder closes after it.
struct Welcome {
    std::uint32_t protocol = kProtocolVersion;
    WelcomeStatus status = WelcomeStatus::ok;
    fabric::Incarnation incarnation{};  // of the holder
};

enum class RequestKind : std::uint32_t {
    read = 1,
    gated_read = 2,  // a Gate follows
};

// Reader to holder.
struct Request {
    RequestKind kind = RequestKind::read;
    std::uint64_t sequence = 0;  // counts up from 0 on each connection
    RegionId region{};
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::uint32_t turn = 0;  // of a gated read: fabric::Read
};

// Of a gated read, which is answered once this bit of a region is set.
struct Gate {
    RegionId region{};
    std::uint64_t bit = 0;  // bit % 8 of byte bit / 8
};

enum class FrameKind : std::uint32_t { data = 1, end = 2, waiting = 3 };
enum class EndStatus : std::uint32_t { ok = 0, access_denied = 1, remote_fault = 2 };

// Holder to reader. Requests are answered in the order in which they came or, of gated reads, their
// gates opened, each by data frames and one end frame. A waiting frame says that the holder is
// there, while the gate of the request that it names is closed.
struct Frame {
    FrameKind kind = FrameKind::end;
    std::uint32_t value = 0;  // data: payload bytes that follow; end: an EndStatus; waiting: 0
    std::uint64_t sequence = 0;
};

void encode(const Hello& hello, std::span<std::byte, kHelloBytes> out);
void encode(const Welcome& welcome, std::span<std::byte, kWelcomeBytes> out);
void encode(const Request& request, std::span<std::byte, kRequestBytes> out);
void encode(const Gate& gate, std::span<std::byte, kGateBytes> out);
void encode(const Frame& frame, std::span<std::byte, kFrameBytes> out);

// Nothing if the bytes are no such frame. A Hello or Welcome of another protocol version decodes.
std::optional<Hello> decode_hello(std::span<const std::byte, kHelloBytes> in);
std::optional<Welcome> decode_welcome(std::span<const std::byte, kWelcomeBytes> in);
std::optional<Request> decode_request(std::span<const std::byte, kRequestBytes> in);
Gate decode_gate(std::span<const std::byte, kGateBytes> in);
std::optional<Frame> decode_frame(std::span<const std::byte, kFrameBytes> in);

fabric::RegionKey encode_key(const RegionId& region);
std::optional<RegionId> decode_key(std::span<const std::byte> key);

}  // namespace weightcast::transport::tcp
