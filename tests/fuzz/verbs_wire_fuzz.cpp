// Goal: no private data, out-of-band message, key or address of a peer of verbs makes this side
// misbehave. Method: every decoder sees the input; what one takes must be sound and encode to the
// same again.
#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/assert.h"
#include "tests/kit/fuzz.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {
namespace {

template <std::size_t Size, typename Message>
void check_round_trip(const Message& message, std::span<const std::byte> input,
                      std::size_t unused_from, std::size_t unused_to) {
    std::array<std::byte, Size> bytes;
    encode(message, std::span<std::byte, Size>(bytes));
    for (std::size_t i = 0; i < Size; ++i) {
        if (i >= unused_from && i < unused_to) continue;
        WEIGHTCAST_ASSERT(bytes[i] == input[i]);
    }
}

void check_key(std::span<const std::byte> input) {
    const auto key = KeyView::parse(input);
    if (!key) return;
    WEIGHTCAST_ASSERT(input.size() <= fabric::kRegionKeyBytesMax);
    WEIGHTCAST_ASSERT(key->rails() > 0 && key->rails() <= kRailsMax && key->bytes() > 0);
    WEIGHTCAST_ASSERT(key->base() + key->bytes() > key->base());
    std::size_t slices = 0;
    for (std::uint64_t at = 0; at < key->bytes(); at += key->slice_left(at)) {
        for (std::size_t rail = 0; rail < key->rails(); ++rail) {
            static_cast<void>(key->remote_key(at, rail));
        }
        WEIGHTCAST_ASSERT(++slices <= kRemoteKeysMax && key->slice_left(at) > 0);
    }
}

void check_address(std::span<const std::byte> input) {
    const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
    const auto address = HolderAddress::parse(text);
    if (!address) return;
    WEIGHTCAST_ASSERT(address->rails.size() <= kRailsMax);
    const auto again = HolderAddress::parse(address->text());
    WEIGHTCAST_ASSERT(again && again->text() == address->text());
}

template <typename Bytes>
std::string as_text(const Bytes& bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace
}  // namespace weightcast::transport::verbs

std::vector<std::string> fuzz_seeds() {
    using namespace weightcast::transport::verbs;
    std::array<std::byte, kHelloBytes> hello;
    Hello plain;
    plain.mtu = 5;
    encode(plain, hello);
    std::array<std::byte, kWelcomeBytes> welcome;
    Welcome accepted;
    accepted.mtu = 5;
    accepted.serve_depth = 16;
    encode(accepted, welcome);
    std::array<std::byte, kPairAddressBytes> pair;
    encode(PairAddress{}, pair);
    RegionKeyParts parts;
    parts.base = 4096;
    parts.bytes = 1 << 20;
    parts.rails = 2;
    parts.slice_shift = 19;
    parts.keys = {1, 2, 3, 4};
    return {as_text(hello),
            as_text(welcome),
            as_text(pair),
            as_text(encode_key(parts)),
            "verbs://10.0.0.1:7471,-,[fd00::1]:9/127.0.0.1:80",
            "verbs://-/[::1]:1"};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace weightcast::transport::verbs;
    const std::span input(reinterpret_cast<const std::byte*>(data), size);
    if (const auto hello = decode_hello(input)) {
        check_round_trip<kHelloBytes>(*hello, input, 0, 0);
    }
    if (const auto welcome = decode_welcome(input)) {
        check_round_trip<kWelcomeBytes>(*welcome, input, 25, 28);
    }
    if (const auto pair = decode_pair_address(input)) {
        check_round_trip<kPairAddressBytes>(*pair, input, 10, 12);
    }
    check_key(input);
    check_address(input);
    return 0;
}
