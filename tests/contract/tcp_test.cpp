// Goal: what only the tcp fabric has: its bytes, addresses and rate cap.
// Method: golden bytes from docs/wire_tcp.md; the rate cap runs on a made-up clock.
#include <array>
#include <string>

#include "base/hex.h"
#include "base/socket.h"
#include "tests/contract/support.h"
#include "transport/open.h"
#include "transport/tcp/token_bucket.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {
namespace {

template <std::size_t Size, typename Message>
std::string hex_of(const Message& message) {
    std::array<std::byte, Size> bytes;
    encode(message, std::span<std::byte, Size>(bytes));
    return to_hex(bytes);
}

template <std::size_t Size>
std::span<const std::byte, Size> exactly(const std::vector<std::byte>& bytes) {
    return std::span<const std::byte, Size>(bytes.data(), Size);
}

std::string repeat(const std::string& text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
}

}  // namespace

TEST_CASE("tcp messages have the documented bytes") {
    fabric::Incarnation expected;
    expected.fill(std::byte{0x11});
    fabric::Incarnation own;
    own.fill(std::byte{0x22});
    REQUIRE(hex_of<kHelloBytes>(Hello{2, expected, own}) ==
            "7763746370666162"
            "02000000"
            "00000000" +
                repeat("11", 16) + repeat("22", 16));
    REQUIRE(hex_of<kWelcomeBytes>(Welcome{2, WelcomeStatus::stale_peer, own}) ==
            "7763746370616e73"
            "02000000"
            "01000000" +
                repeat("22", 16));
    RegionId region;
    region.fill(std::byte{0x33});
    const std::string request = hex_of<kRequestBytes>(
        Request{RequestKind::gated_read, 2, region, 0x0102030405060708, 9, 7});
    REQUIRE(request ==
            "02000000"
            "07000000"
            "0200000000000000" +
                repeat("33", 16) +
                "0807060504030201"
                "0900000000000000");
    REQUIRE(hex_of<kRequestBytes>(Request{}).starts_with("0100000000000000"));
    const std::string gate = hex_of<kGateBytes>(Gate{region, 0x0102030405060708});
    REQUIRE(gate == repeat("33", 16) + "0807060504030201");
    REQUIRE(hex_of<kFrameBytes>(Frame{FrameKind::data, 1U << 20U, 3}) ==
            "01000000"
            "00001000"
            "0300000000000000");
    REQUIRE(hex_of<kFrameBytes>(Frame{FrameKind::end, 2, 4}) ==
            "02000000"
            "02000000"
            "0400000000000000");
    REQUIRE(hex_of<kFrameBytes>(Frame{FrameKind::waiting, 0, 5}) ==
            "03000000"
            "00000000"
            "0500000000000000");
    const auto decoded = decode_request(exactly<kRequestBytes>(*from_hex(request)));
    REQUIRE(decoded);
    REQUIRE(decoded->kind == RequestKind::gated_read);
    REQUIRE(decoded->offset == 0x0102030405060708);
    REQUIRE(decoded->region == region);
    const Gate decoded_gate = decode_gate(exactly<kGateBytes>(*from_hex(gate)));
    REQUIRE(decoded_gate.region == region);
    REQUIRE(decoded_gate.bit == 0x0102030405060708);
    REQUIRE(decode_key(encode_key(region)) == region);
}

TEST_CASE("malformed tcp frames and requests do not decode") {
    for (const char* frame : {"00000000010000000000000000000000",     // no such kind
                              "01000000000000000000000000000000",     // no payload
                              "01000000010010000000000000000000",     // too much payload
                              "02000000030000000000000000000000",     // no such status
                              "03000000010000000000000000000000"}) {  // waiting with a value
        INFO(frame);
        REQUIRE(!decode_frame(exactly<kFrameBytes>(*from_hex(frame))));
    }
    for (const char* request : {"0000000000000000", "0300000000000000", "0100000001000000"}) {
        INFO(request);
        REQUIRE(!decode_request(exactly<kRequestBytes>(*from_hex(request + repeat("00", 40)))));
    }
    // One's own hello is no welcome.
    std::array<std::byte, kHelloBytes> hello;
    encode(Hello{}, hello);
    REQUIRE(!decode_welcome(std::span(hello).first<kWelcomeBytes>()));
}

TEST_CASE("tcp addresses are numeric hosts with an optional port") {
    const auto formatted = [](const char* text) {
        const auto address = parse_address(text);
        return address ? format_address(address.value()) : std::string("bad");
    };
    REQUIRE(formatted("127.0.0.1") == "127.0.0.1:0");
    REQUIRE(formatted("10.1.2.3:65535") == "10.1.2.3:65535");
    REQUIRE(formatted("[::1]:80") == "[::1]:80");
    REQUIRE(formatted("::1") == "[::1]:0");
    for (const char* bad : {"", ":1", "host:1", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:x", "[::1",
                            "[::1]:", "[::1]80", "1.2.3.4:-1"}) {
        INFO(bad);
        REQUIRE(formatted(bad) == "bad");
    }
}

TEST_CASE("tcp options that cannot work are refused") {
    fabric::FabricOptions options = contract::fresh_options();
    options.congestion_control = "no-such-control";
    REQUIRE(open_tcp(options).error().code == Code::invalid_input);
    options = contract::fresh_options();
    options.connections_per_link = 0;
    REQUIRE(open_tcp(options).error().code == Code::invalid_input);
    options = contract::fresh_options();
    options.listen = "localhost";
    REQUIRE(open_tcp(options).error().code == Code::invalid_input);
}

TEST_CASE("a token bucket keeps its rate") {
    constexpr std::uint64_t kRate = 10'000'000;
    TimePoint now{};
    const TimePoint begin = now;
    TokenBucket bucket(kRate, now);
    std::uint64_t sent = 0;
    int idle = 0;
    while (now - begin < std::chrono::seconds(10)) {
        const std::uint64_t allowed = bucket.available(1U << 20U, now);
        bucket.take(allowed);
        sent += allowed;
        // As the server does: it sends on at once, or waits.
        idle += allowed == 0;
        now += allowed > 0 ? Duration(0) : std::chrono::milliseconds(bucket.wait_ms());
    }
    REQUIRE(sent <= kRate * 10 + kRate / 100);
    REQUIRE(sent >= kRate * 10 * 99 / 100);
    REQUIRE(idle < 10'000);
}

}  // namespace weightcast::transport::tcp
