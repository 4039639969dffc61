// Goal: no bytes from the network make either end of the tcp fabric misbehave.
// Method: the input is fed to a holder's and to a reader's end through socket pairs; each must
// close the connection or go on, read nothing outside its region and write nothing outside the
// local memory. The first byte of the input says how the rest is cut into pieces. The holder's
// region is its own gate: bit 0 of each byte is set at first, all are in the end.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/assert.h"
#include "tests/kit/fuzz.h"
#include "transport/tcp/reader_connection.h"
#include "transport/tcp/region_table.h"
#include "transport/tcp/server_connection.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {
namespace {

constexpr std::size_t kRegionBytes = 4096;
constexpr std::size_t kGuardBytes = 64;

RegionId known_region() {
    RegionId id{};
    id.fill(std::byte{7});
    return id;
}

struct Pair {
    UniqueFd ours;
    UniqueFd theirs;
};

Pair open_pair() {
    std::array<int, 2> ends{};
    WEIGHTCAST_ASSERT(
        ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void drain(int fd) {
    std::array<std::byte, 65536> bytes;
    while (::recv(fd, bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
    }
}

std::span<const std::byte> take(std::span<const std::byte>& input, std::size_t bytes) {
    const auto piece = input.first(std::min(bytes, input.size()));
    input = input.subspan(piece.size());
    return piece;
}

// Each turn sends something, or the socket is full and drained. False: the connection is closed.
bool serve(ServerConnection& holder, int reader) {
    bool alive = holder.receive();
    holder.look_at_new_gates();
    while (alive && holder.can_send()) {
        std::atomic<std::uint64_t> sent = 0;
        alive = holder.send(1024, sent);
        WEIGHTCAST_ASSERT(sent <= 1024);
        drain(reader);
        if (alive) alive = holder.receive();
        holder.look_at_new_gates();
    }
    return alive;
}

void feed_holder(std::span<const std::byte> input, std::size_t piece_bytes) {
    std::vector<std::byte> memory(kRegionBytes, std::byte{1});
    RegionTable table;
    fabric::Memory described;
    described.bytes = memory;
    table.add(known_region(), described);
    Pair pair = open_pair();
    ServerConnection holder(std::move(pair.ours), {}, table, TimePoint{});
    bool alive = true;
    while (alive && !input.empty()) {
        const auto piece = take(input, piece_bytes);
        if (::send(pair.theirs.get(), piece.data(), piece.size(), MSG_NOSIGNAL) < 0) break;
        holder.mark_readable(false);
        holder.mark_writable();
        alive = serve(holder, pair.theirs.get()) && holder.say_waiting();
        WEIGHTCAST_ASSERT(holder.parked() <= ServerConnection::kRequestsMax);
    }
    std::ranges::fill(memory, std::byte{0xFF});
    holder.look_at_gates();
    WEIGHTCAST_ASSERT(holder.parked() == 0);
    if (alive) serve(holder, pair.theirs.get());
    table.revoke(known_region());
}

void feed_reader(std::span<const std::byte> input, std::size_t piece_bytes) {
    std::vector<std::byte> memory(kGuardBytes + kRegionBytes + kGuardBytes, std::byte{0xAB});
    Pair pair = open_pair();
    const TimePoint now{};
    ReaderConnection reader(std::move(pair.ours), {}, {}, now);
    Ring<fabric::Completion> done;
    // Every second one has a gate.
    constexpr std::uint64_t kReads = 8;
    for (std::uint64_t i = 0; i < kReads; ++i) {
        const auto gate = i % 2 == 0 ? std::nullopt : std::optional(Gate{known_region(), i});
        reader.request(known_region(), 0, memory.data() + kGuardBytes, kRegionBytes,
                       fabric::ReadTag(i), now, gate);
    }
    bool alive = true;
    while (alive && !input.empty()) {
        const auto piece = take(input, piece_bytes);
        if (::send(pair.theirs.get(), piece.data(), piece.size(), MSG_NOSIGNAL) < 0) break;
        alive = !reader.flush().has_value() && !reader.receive(65536, now, done).has_value();
        drain(pair.theirs.get());
    }
    reader.fail_all(fabric::ReadStatus::unreachable, done);
    WEIGHTCAST_ASSERT(done.size() == kReads && reader.outstanding_bytes() == 0);
    std::array<bool, kReads> completed{};
    for (; !done.empty(); done.pop()) {
        const auto tag = static_cast<std::size_t>(done.front().tag.value);
        WEIGHTCAST_ASSERT(tag < kReads && !completed[tag]);
        completed[tag] = true;
    }
    const auto guarded = [](std::byte b) { return b == std::byte{0xAB}; };
    WEIGHTCAST_ASSERT(std::all_of(memory.begin(), memory.begin() + kGuardBytes, guarded));
    WEIGHTCAST_ASSERT(std::all_of(memory.end() - kGuardBytes, memory.end(), guarded));
}

template <std::size_t Size, typename Message>
void append(std::string& text, const Message& message) {
    std::array<std::byte, Size> bytes;
    encode(message, std::span<std::byte, Size>(bytes));
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace
}  // namespace weightcast::transport::tcp

std::vector<std::string> fuzz_seeds() {
    using namespace weightcast::transport::tcp;
    std::string requests(1, '\xFF');
    append<kHelloBytes>(requests, Hello{});
    constexpr auto kRead = RequestKind::read;
    append<kRequestBytes>(requests, Request{kRead, 0, known_region(), 0, 4096});
    append<kRequestBytes>(requests, Request{kRead, 1, known_region(), 4000, 200});
    append<kRequestBytes>(requests, Request{kRead, 2, RegionId{}, 0, 1});
    append<kRequestBytes>(requests, Request{kRead, 3, known_region(), ~std::uint64_t{0}, 2});
    append<kRequestBytes>(requests, Request{kRead, 4, known_region(), 1, 1});
    // Closed gates; open ones; no such bit; no such region.
    std::string gated = requests;
    std::uint64_t sequence = 5;
    for (const std::uint64_t bit : {1ULL, 8ULL, 32761ULL, 32768ULL, ~0ULL}) {
        append<kRequestBytes>(
            gated, Request{RequestKind::gated_read, sequence++, known_region(), bit % 4096, 64});
        append<kGateBytes>(gated, Gate{known_region(), bit});
    }
    append<kRequestBytes>(gated, Request{RequestKind::gated_read, 10, known_region(), 0, 64});
    append<kGateBytes>(gated, Gate{});
    append<kRequestBytes>(gated, Request{kRead, 11, known_region(), 1, 1});
    std::string frames(1, '\x28');
    append<kWelcomeBytes>(frames, Welcome{});
    append<kFrameBytes>(frames, Frame{FrameKind::data, 4000, 0});
    frames.append(4000, 'a');
    append<kFrameBytes>(frames, Frame{FrameKind::data, 96, 0});
    frames.append(96, 'b');
    append<kFrameBytes>(frames, Frame{FrameKind::end, 0, 0});
    append<kFrameBytes>(frames, Frame{FrameKind::waiting, 0, 1});
    append<kFrameBytes>(frames, Frame{FrameKind::end, 1, 3});
    append<kFrameBytes>(frames, Frame{FrameKind::data, 10, 2});
    frames.append(10, 'c');
    append<kFrameBytes>(frames, Frame{FrameKind::waiting, 0, 7});
    append<kFrameBytes>(frames, Frame{FrameKind::end, 2, 2});
    append<kFrameBytes>(frames, Frame{FrameKind::data, 4096, 5});
    frames.append(4096, 'd');
    append<kFrameBytes>(frames, Frame{FrameKind::end, 0, 5});
    append<kFrameBytes>(frames, Frame{FrameKind::end, 1, 4});
    append<kFrameBytes>(frames, Frame{FrameKind::waiting, 0, 3});
    return {requests, gated, frames};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data + 1), size - 1);
    const std::size_t piece_bytes = 1 + std::size_t{data[0]} * 8;
    weightcast::transport::tcp::feed_holder(input, piece_bytes);
    weightcast::transport::tcp::feed_reader(input, piece_bytes);
    return 0;
}
