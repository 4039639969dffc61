// Goal: what peers of verbs say is byte-exact as docs/wire_verbs.md has it, and nothing else is
// taken. Method: golden bytes, round trips, and one broken field at a time.
#include <array>
#include <string>
#include <vector>

#include "base/hex.h"
#include "tests/kit/catch.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {
namespace {

template <std::size_t Size, typename Message>
std::array<std::byte, Size> bytes_of(const Message& message) {
    std::array<std::byte, Size> bytes;
    encode(message, std::span<std::byte, Size>(bytes));
    return bytes;
}

fabric::Incarnation filled(std::uint8_t value) {
    fabric::Incarnation incarnation;
    incarnation.fill(static_cast<std::byte>(value));
    return incarnation;
}

std::string repeat(const std::string& text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
}

Hello sample_hello() {
    Hello hello;
    hello.rail = 2;
    hello.mtu = 5;
    hello.expected = filled(0xAA);
    hello.reader = filled(0xBB);
    hello.lane = 0x01020304;
    hello.generation = 7;
    hello.probe_key = 0x0A0B0C0D;
    return hello;
}

Welcome sample_welcome() {
    Welcome welcome;
    welcome.mtu = 4;
    welcome.incarnation = filled(0xAA);
    welcome.serve_depth = 16;
    return welcome;
}

RegionKeyParts sample_key() {
    RegionKeyParts parts;
    parts.base = 0x7F0000001000;
    parts.bytes = 3 << 20;
    parts.rails = 2;
    parts.slice_shift = 21;
    parts.keys = {0x11, 0x22, 0x33, 0x44};
    return parts;
}

TEST_CASE("a hello has the bytes of its description") {
    const auto bytes = bytes_of<kHelloBytes>(sample_hello());
    CHECK(to_hex(bytes) ==
          "57564248"
          "0100"
          "02"
          "05" +
              repeat("aa", 16) + repeat("bb", 16) +
              "04030201"
              "07000000"
              "0d0c0b0a");
    CHECK(decode_hello(bytes) == sample_hello());
    // librdmacm pads private data with zeros.
    std::vector<std::byte> padded(bytes.begin(), bytes.end());
    padded.resize(56);
    CHECK(decode_hello(padded) == sample_hello());
    CHECK(!decode_hello(std::span(bytes).first(kHelloBytes - 1)));
    CHECK(!decode_hello(bytes_of<kWelcomeBytes>(sample_welcome())));
}

TEST_CASE("a hello of another protocol is taken, so that it can be answered") {
    Hello hello = sample_hello();
    hello.protocol = 99;
    hello.mtu = 77;
    const auto decoded = decode_hello(bytes_of<kHelloBytes>(hello));
    REQUIRE(decoded);
    CHECK(decoded->protocol == 99);
    hello.protocol = kProtocolVersion;
    CHECK(!decode_hello(bytes_of<kHelloBytes>(hello)));
}

TEST_CASE("a welcome has the bytes of its description") {
    const auto bytes = bytes_of<kWelcomeBytes>(sample_welcome());
    CHECK(to_hex(bytes) ==
          "57564257"
          "0100"
          "00"
          "04" +
              repeat("aa", 16) +
              "10"
              "000000");
    CHECK(decode_welcome(bytes) == sample_welcome());
    CHECK(!decode_welcome(std::span(bytes).first(kWelcomeBytes - 1)));
}

TEST_CASE("a welcome that accepts must be usable, one that refuses need not") {
    Welcome welcome = sample_welcome();
    welcome.serve_depth = 0;
    CHECK(!decode_welcome(bytes_of<kWelcomeBytes>(welcome)));
    welcome = sample_welcome();
    welcome.mtu = 6;
    CHECK(!decode_welcome(bytes_of<kWelcomeBytes>(welcome)));
    welcome = sample_welcome();
    welcome.protocol = 2;
    CHECK(!decode_welcome(bytes_of<kWelcomeBytes>(welcome)));
    Welcome refusal;
    refusal.verdict = Verdict::wrong_protocol;
    refusal.protocol = 2;
    CHECK(decode_welcome(bytes_of<kWelcomeBytes>(refusal)) == refusal);
    auto unknown = bytes_of<kWelcomeBytes>(refusal);
    unknown[6] = std::byte{6};
    CHECK(!decode_welcome(unknown));
}

TEST_CASE("a queue pair's address has the bytes of its description") {
    PairAddress address;
    address.number = 0xABCDEF;
    address.packet = 0x123456;
    address.lid = 0x0102;
    address.gid = filled(0xCC);
    const auto bytes = bytes_of<kPairAddressBytes>(address);
    CHECK(to_hex(bytes) ==
          "efcdab00"
          "56341200"
          "0201"
          "0000" +
              repeat("cc", 16));
    CHECK(decode_pair_address(bytes) == address);
    auto large = bytes;
    large[3] = std::byte{1};
    CHECK(!decode_pair_address(large));
}

TEST_CASE("a region key has the bytes of its description") {
    const fabric::RegionKey key = encode_key(sample_key());
    CHECK(to_hex(key) ==
          "01"
          "02"
          "15"
          "00"
          "00100000007f0000"
          "0000300000000000"
          "11000000"
          "22000000"
          "33000000"
          "44000000");
    const auto view = KeyView::parse(key);
    REQUIRE(view);
    CHECK(view->base() == 0x7F0000001000);
    CHECK(view->bytes() == 3 << 20);
    CHECK(view->rails() == 2);
    CHECK(view->remote_key(0, 0) == 0x11);
    CHECK(view->remote_key((2 << 20) - 1, 1) == 0x22);
    CHECK(view->remote_key(2 << 20, 0) == 0x33);
    CHECK(view->slice_left(0) == 2 << 20);
    CHECK(view->slice_left((2 << 20) - 1) == 1);
    CHECK(view->slice_left(2 << 20) == 2 << 20);
}

TEST_CASE("a key that contradicts itself is no key") {
    const fabric::RegionKey good = encode_key(sample_key());
    const auto parses_with = [&](std::size_t at, std::uint8_t value) {
        fabric::RegionKey key = good;
        key[at] = static_cast<std::byte>(value);
        return KeyView::parse(key).has_value();
    };
    REQUIRE(KeyView::parse(good));
    CHECK(!parses_with(0, 2));      // version
    CHECK(!parses_with(1, 0));      // no rail
    CHECK(!parses_with(1, 9));      // more rails than there are
    CHECK(!parses_with(1, 1));      // fewer keys would do
    CHECK(!parses_with(2, 20));     // more slices than keys
    CHECK(!parses_with(2, 64));     // no such shift
    CHECK(!parses_with(2, 11));     // slices too small
    CHECK(!parses_with(19, 0x80));  // more bytes than any memory
    CHECK(parses_with(11, 0xFF));   // a high address is sound
    fabric::RegionKey over = good;
    for (std::size_t i = 4; i < 12; ++i) over[i] = std::byte{0xFF};  // the end wraps round
    CHECK(!KeyView::parse(over));
    fabric::RegionKey longer = good;
    longer.push_back({});
    CHECK(!KeyView::parse(longer));
    fabric::RegionKey shorter = good;
    shorter.pop_back();
    CHECK(!KeyView::parse(shorter));
    CHECK(!KeyView::parse({}));
}

TEST_CASE("the largest key fits what a region key may have") {
    RegionKeyParts parts = sample_key();
    parts.keys.resize(kRemoteKeysMax);
    parts.bytes = std::uint64_t{kRemoteKeysMax / 2} << parts.slice_shift;
    const auto key = encode_key(parts);
    CHECK(key.size() <= fabric::kRegionKeyBytesMax);
    CHECK(KeyView::parse(key));
}

TEST_CASE("addresses name a way to each rail, and one out of band") {
    const auto again = [](const char* text) {
        const auto address = HolderAddress::parse(text);
        return address ? address->text() : std::string("bad");
    };
    for (const char* good :
         {"verbs://10.0.0.1:7471", "verbs://10.0.0.1:1,10.0.1.1:2", "verbs://10.0.0.1:1/1.2.3.4:5",
          "verbs://-,[fd00::1]:9/[::1]:2", "verbs://-/1.2.3.4:5"}) {
        INFO(good);
        CHECK(again(good) == good);
    }
    for (const char* bad :
         {"", "verbs://", "tcp://10.0.0.1:1", "verbs://10.0.0.1", "verbs://10.0.0.1:0", "verbs://-",
          "verbs://-,-", "verbs://10.0.0.1:1/", "verbs://10.0.0.1:1/x", "verbs://10.0.0.1:1,",
          "verbs://host:1", "verbs://-,-,-,-,-,-,-,-,1.1.1.1:1", "verbs://10.0.0.1:1 "}) {
        INFO(bad);
        CHECK(again(bad) == "bad");
    }
    CHECK(again(("verbs://" + std::string(600, '1')).c_str()) == "bad");
}

}  // namespace
}  // namespace weightcast::transport::verbs
