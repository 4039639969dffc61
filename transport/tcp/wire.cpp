#include "transport/tcp/wire.h"

#include <algorithm>
#include <cstring>

namespace weightcast::transport::tcp {
namespace {

// Two, so that a connection to oneself is not taken for a holder.
constexpr char kHelloMagic[] = "wctcpfab";
constexpr char kWelcomeMagic[] = "wctcpans";
constexpr char kKeyMagic[] = "tcp1";

template <typename Integer>
void put(std::byte* out, Integer value) {
    for (std::size_t i = 0; i < sizeof value; ++i) out[i] = std::byte(value >> (8U * i) & 0xFFU);
}

template <typename Integer>
Integer get(const std::byte* in) {
    Integer value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i) {
        value |= static_cast<Integer>(static_cast<Integer>(std::to_integer<unsigned>(in[i]))
                                      << (8U * i));
    }
    return value;
}

template <typename Array>
Array get_array(const std::byte* in) {
    Array array;
    std::copy_n(in, array.size(), array.begin());
    return array;
}

}  // namespace

void encode(const Hello& hello, std::span<std::byte, kHelloBytes> out) {
    std::memcpy(out.data(), kHelloMagic, 8);
    put(&out[8], hello.protocol);
    put(&out[12], std::uint32_t{0});
    std::ranges::copy(hello.expected, out.begin() + 16);
    std::ranges::copy(hello.own, out.begin() + 32);
}

void encode(const Welcome& welcome, std::span<std::byte, kWelcomeBytes> out) {
    std::memcpy(out.data(), kWelcomeMagic, 8);
    put(&out[8], welcome.protocol);
    put(&out[12], static_cast<std::uint32_t>(welcome.status));
    std::ranges::copy(welcome.incarnation, out.begin() + 16);
}

void encode(const Request& request, std::span<std::byte, kRequestBytes> out) {
    put(&out[0], static_cast<std::uint32_t>(request.kind));
    put(&out[4], request.turn);
    put(&out[8], request.sequence);
    std::ranges::copy(request.region, out.begin() + 16);
    put(&out[32], request.offset);
    put(&out[40], request.bytes);
}

void encode(const Gate& gate, std::span<std::byte, kGateBytes> out) {
    std::ranges::copy(gate.region, out.begin());
    put(&out[16], gate.bit);
}

void encode(const Frame& frame, std::span<std::byte, kFrameBytes> out) {
    put(&out[0], static_cast<std::uint32_t>(frame.kind));
    put(&out[4], frame.value);
    put(&out[8], frame.sequence);
}

std::optional<Hello> decode_hello(std::span<const std::byte, kHelloBytes> in) {
    if (std::memcmp(in.data(), kHelloMagic, 8) != 0) return std::nullopt;
    if (get<std::uint32_t>(&in[12]) != 0) return std::nullopt;
    return Hello{get<std::uint32_t>(&in[8]), get_array<fabric::Incarnation>(&in[16]),
                 get_array<fabric::Incarnation>(&in[32])};
}

std::optional<Welcome> decode_welcome(std::span<const std::byte, kWelcomeBytes> in) {
    if (std::memcmp(in.data(), kWelcomeMagic, 8) != 0) return std::nullopt;
    const auto status = get<std::uint32_t>(&in[12]);
    if (status > static_cast<std::uint32_t>(WelcomeStatus::wrong_protocol)) return std::nullopt;
    return Welcome{get<std::uint32_t>(&in[8]), static_cast<WelcomeStatus>(status),
                   get_array<fabric::Incarnation>(&in[16])};
}

std::optional<Request> decode_request(std::span<const std::byte, kRequestBytes> in) {
    const auto kind = static_cast<RequestKind>(get<std::uint32_t>(&in[0]));
    if (kind != RequestKind::read && kind != RequestKind::gated_read) return std::nullopt;
    const auto turn = get<std::uint32_t>(&in[4]);
    if (kind == RequestKind::read && turn != 0) return std::nullopt;
    return Request{kind,
                   get<std::uint64_t>(&in[8]),
                   get_array<RegionId>(&in[16]),
                   get<std::uint64_t>(&in[32]),
                   get<std::uint64_t>(&in[40]),
                   turn};
}

Gate decode_gate(std::span<const std::byte, kGateBytes> in) {
    return {get_array<RegionId>(in.data()), get<std::uint64_t>(&in[16])};
}

std::optional<Frame> decode_frame(std::span<const std::byte, kFrameBytes> in) {
    const auto kind = get<std::uint32_t>(&in[0]);
    const auto value = get<std::uint32_t>(&in[4]);
    const auto sequence = get<std::uint64_t>(&in[8]);
    if (kind == static_cast<std::uint32_t>(FrameKind::data)) {
        if (value == 0 || value > kSliceBytesMax) return std::nullopt;
        return Frame{FrameKind::data, value, sequence};
    }
    if (kind == static_cast<std::uint32_t>(FrameKind::end)) {
        if (value > static_cast<std::uint32_t>(EndStatus::remote_fault)) return std::nullopt;
        return Frame{FrameKind::end, value, sequence};
    }
    if (kind == static_cast<std::uint32_t>(FrameKind::waiting)) {
        if (value != 0) return std::nullopt;
        return Frame{FrameKind::waiting, value, sequence};
    }
    return std::nullopt;
}

fabric::RegionKey encode_key(const RegionId& region) {
    fabric::RegionKey key(kKeyBytes);
    std::memcpy(key.data(), kKeyMagic, 4);
    std::ranges::copy(region, key.begin() + 4);
    return key;
}

std::optional<RegionId> decode_key(std::span<const std::byte> key) {
    if (key.size() != kKeyBytes || std::memcmp(key.data(), kKeyMagic, 4) != 0) return std::nullopt;
    return get_array<RegionId>(&key[4]);
}

}  // namespace weightcast::transport::tcp
