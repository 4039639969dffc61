#include "transport/verbs/wire.h"

#include <infiniband/verbs.h>

#include <algorithm>
#include <concepts>
#include <cstring>
#include <type_traits>

#include "base/assert.h"

namespace weightcast::transport::verbs {
namespace {

constexpr std::uint32_t kHelloMagic = 0x48425657;    // "WVBH"
constexpr std::uint32_t kWelcomeMagic = 0x57425657;  // "WVBW"
constexpr std::uint8_t kKeyVersion = 1;
constexpr std::size_t kKeyHeadBytes = 20;
constexpr unsigned kSliceShiftMin = 12;
constexpr std::string_view kScheme = "verbs://";
constexpr std::size_t kAddressBytesMax = 512;

// Little-endian integers and plain bytes, one after another.
class Writer {
  public:
    explicit Writer(std::span<std::byte> out) : out_(out) {}
    template <std::integral Integer>
    void put(Integer value) {
        using Unsigned = std::make_unsigned_t<Integer>;
        for (std::size_t i = 0; i < sizeof value; ++i) {
            out_[at_++] = static_cast<std::byte>(static_cast<Unsigned>(value) >> (8 * i));
        }
    }
    void put(std::span<const std::byte> bytes) {
        std::ranges::copy(bytes, out_.subspan(at_).begin());
        at_ += bytes.size();
    }
    void pad() { std::ranges::fill(out_.subspan(at_), std::byte{0}); }

  private:
    std::span<std::byte> out_;
    std::size_t at_ = 0;
};

class Reader {
  public:
    explicit Reader(std::span<const std::byte> in) : in_(in) {}
    template <typename Integer>
    Integer get() {
        Integer value = 0;
        for (std::size_t i = 0; i < sizeof value; ++i) {
            value = static_cast<Integer>(value | std::to_integer<Integer>(in_[at_++]) << (8 * i));
        }
        return value;
    }
    template <std::size_t Size>
    void get(std::array<std::byte, Size>& bytes) {
        std::ranges::copy(in_.subspan(at_, Size), bytes.begin());
        at_ += Size;
    }

  private:
    std::span<const std::byte> in_;
    std::size_t at_ = 0;
};

bool is_mtu(std::uint8_t mtu) { return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096; }

}  // namespace

const char* to_string(Verdict verdict) noexcept {
    switch (verdict) {
        case Verdict::accepted:
            return "accepted";
        case Verdict::stale_peer:
            return "another incarnation answers there";
        case Verdict::wrong_protocol:
            return "it speaks another protocol version";
        case Verdict::busy:
            return "it has too many connections";
        case Verdict::no_rail:
            return "it has no such rail";
        case Verdict::failed:
            return "it could not set up its queue pair";
    }
    return "unknown";
}

void encode(const Hello& hello, std::span<std::byte, kHelloBytes> out) {
    Writer writer(out);
    writer.put(kHelloMagic);
    writer.put(hello.protocol);
    writer.put(hello.rail);
    writer.put(hello.mtu);
    writer.put(std::span(hello.expected));
    writer.put(std::span(hello.reader));
    writer.put(hello.lane);
    writer.put(hello.generation);
    writer.put(hello.probe_key);
}

std::optional<Hello> decode_hello(std::span<const std::byte> bytes) {
    if (bytes.size() < kHelloBytes) return std::nullopt;
    Reader reader(bytes);
    if (reader.get<std::uint32_t>() != kHelloMagic) return std::nullopt;
    Hello hello;
    hello.protocol = reader.get<std::uint16_t>();
    hello.rail = reader.get<std::uint8_t>();
    hello.mtu = reader.get<std::uint8_t>();
    reader.get(hello.expected);
    reader.get(hello.reader);
    hello.lane = reader.get<std::uint32_t>();
    hello.generation = reader.get<std::uint32_t>();
    hello.probe_key = reader.get<std::uint32_t>();
    if (hello.protocol == kProtocolVersion && !is_mtu(hello.mtu)) return std::nullopt;
    return hello;
}

void encode(const Welcome& welcome, std::span<std::byte, kWelcomeBytes> out) {
    Writer writer(out);
    writer.put(kWelcomeMagic);
    writer.put(welcome.protocol);
    writer.put(static_cast<std::uint8_t>(welcome.verdict));
    writer.put(welcome.mtu);
    writer.put(std::span(welcome.incarnation));
    writer.put(welcome.serve_depth);
    writer.pad();
}

std::optional<Welcome> decode_welcome(std::span<const std::byte> bytes) {
    if (bytes.size() < kWelcomeBytes) return std::nullopt;
    Reader reader(bytes);
    if (reader.get<std::uint32_t>() != kWelcomeMagic) return std::nullopt;
    Welcome welcome;
    welcome.protocol = reader.get<std::uint16_t>();
    const auto verdict = reader.get<std::uint8_t>();
    if (verdict > static_cast<std::uint8_t>(Verdict::failed)) return std::nullopt;
    welcome.verdict = static_cast<Verdict>(verdict);
    welcome.mtu = reader.get<std::uint8_t>();
    reader.get(welcome.incarnation);
    welcome.serve_depth = reader.get<std::uint8_t>();
    const bool usable =
        is_mtu(welcome.mtu) && welcome.serve_depth > 0 && welcome.protocol == kProtocolVersion;
    if (welcome.verdict == Verdict::accepted && !usable) return std::nullopt;
    return welcome;
}

void encode(const PairAddress& address, std::span<std::byte, kPairAddressBytes> out) {
    Writer writer(out);
    writer.put(address.number);
    writer.put(address.packet);
    writer.put(address.lid);
    writer.put(std::uint16_t{0});
    writer.put(std::span(address.gid));
}

std::optional<PairAddress> decode_pair_address(std::span<const std::byte> bytes) {
    if (bytes.size() < kPairAddressBytes) return std::nullopt;
    Reader reader(bytes);
    PairAddress address;
    address.number = reader.get<std::uint32_t>();
    address.packet = reader.get<std::uint32_t>();
    address.lid = reader.get<std::uint16_t>();
    reader.get<std::uint16_t>();
    reader.get(address.gid);
    if (address.number > kPairNumberMax || address.packet > kPairNumberMax) return std::nullopt;
    return address;
}

fabric::RegionKey encode_key(const RegionKeyParts& parts) {
    WEIGHTCAST_ASSERT(!parts.keys.empty() && parts.keys.size() <= kRemoteKeysMax);
    fabric::RegionKey bytes(kKeyHeadBytes + 4 * parts.keys.size());
    Writer writer(bytes);
    writer.put(kKeyVersion);
    writer.put(parts.rails);
    writer.put(parts.slice_shift);
    writer.put(std::uint8_t{0});
    writer.put(parts.base);
    writer.put(parts.bytes);
    for (const std::uint32_t key : parts.keys) writer.put(key);
    return bytes;
}

std::optional<KeyView> KeyView::parse(std::span<const std::byte> bytes) {
    if (bytes.size() < kKeyHeadBytes) return std::nullopt;
    Reader reader(bytes);
    if (reader.get<std::uint8_t>() != kKeyVersion) return std::nullopt;
    KeyView view;
    view.encoded_ = bytes;
    view.rails_ = reader.get<std::uint8_t>();
    view.slice_shift_ = reader.get<std::uint8_t>();
    reader.get<std::uint8_t>();
    view.base_ = reader.get<std::uint64_t>();
    view.bytes_ = reader.get<std::uint64_t>();
    const bool sound = view.rails_ > 0 && view.rails_ <= kRailsMax &&
                       view.slice_shift_ >= kSliceShiftMin && view.slice_shift_ <= 63 &&
                       view.bytes_ > 0 && view.bytes_ <= UINT64_MAX / 2 &&
                       view.bytes_ <= UINT64_MAX - view.base_;
    if (!sound) return std::nullopt;
    const std::uint64_t slices = ((view.bytes_ - 1) >> view.slice_shift_) + 1;
    if (slices > kRemoteKeysMax || slices * view.rails_ > kRemoteKeysMax) return std::nullopt;
    if (bytes.size() != kKeyHeadBytes + 4 * slices * view.rails_) return std::nullopt;
    return view;
}

std::uint32_t KeyView::remote_key(std::uint64_t offset, std::size_t rail) const {
    const std::uint64_t position = (offset >> slice_shift_) * rails_ + rail;
    return Reader(encoded_.subspan(kKeyHeadBytes + 4 * position)).get<std::uint32_t>();
}

std::string HolderAddress::text() const {
    std::string result(kScheme);
    for (std::size_t i = 0; i < rails.size(); ++i) {
        if (i > 0) result += ',';
        result += rails[i] ? format_address(*rails[i]) : "-";
    }
    if (control) result += '/' + format_address(*control);
    return result;
}

std::optional<HolderAddress> HolderAddress::parse(std::string_view text) {
    if (!text.starts_with(kScheme) || text.size() > kAddressBytesMax) return std::nullopt;
    text.remove_prefix(kScheme.size());
    const auto endpoint = [](std::string_view part) -> std::optional<SocketAddress> {
        auto parsed = parse_address(part);
        if (!parsed || port_of(parsed.value()) == 0) return std::nullopt;
        return parsed.value();
    };
    HolderAddress address;
    if (const auto slash = text.find('/'); slash != std::string_view::npos) {
        address.control = endpoint(text.substr(slash + 1));
        if (!address.control) return std::nullopt;
        text = text.substr(0, slash);
    }
    bool reachable = address.control.has_value();
    for (bool more = true; more;) {
        const auto comma = text.find(',');
        const std::string_view part = text.substr(0, comma);
        more = comma != std::string_view::npos;
        if (more) text.remove_prefix(comma + 1);
        if (address.rails.size() == kRailsMax) return std::nullopt;
        address.rails.emplace_back();
        if (part == "-") continue;
        address.rails.back() = endpoint(part);
        if (!address.rails.back()) return std::nullopt;
        reachable = true;
    }
    if (!reachable) return std::nullopt;
    return address;
}

}  // namespace weightcast::transport::verbs
