// Goal: both ends of a tcp connection keep gated reads apart from the others, and no bit that is
// set goes unseen.
// Method: each end alone over a socket pair, on a made-up clock; then a holder and a reader whose
// bits are set while their reads arrive, where nothing but gates_opened() makes the holder look.
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <set>
#include <thread>

#include "tests/contract/support.h"
#include "tests/kit/pattern.h"
#include "transport/open.h"
#include "transport/tcp/reader_connection.h"
#include "transport/tcp/server_connection.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {
namespace {

using fabric::ReadStatus;

constexpr RegionId kData = {std::byte{1}};
constexpr RegionId kGates = {std::byte{2}};

struct Pair {
    UniqueFd ours;
    UniqueFd theirs;
};

Pair open_pair() {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

template <std::size_t Size, typename Message>
void send_message(const UniqueFd& socket, const Message& message) {
    std::array<std::byte, Size> bytes;
    encode(message, std::span<std::byte, Size>(bytes));
    REQUIRE(::send(socket.get(), bytes.data(), Size, MSG_NOSIGNAL) == ssize_t{Size});
}

// The reader's end, and what a holder sends to it.
struct Reader {
    Reader() : pair(open_pair()), connection(std::move(pair.ours), {}, {}, now) {
        send_message<kWelcomeBytes>(pair.theirs, Welcome{});
        REQUIRE(receive());
    }
    void request(std::uint64_t tag, const std::optional<Gate>& gate = std::nullopt) {
        connection.request(kData, 0, &memory[static_cast<std::size_t>(tag) * 4], 4,
                           fabric::ReadTag(tag), now, gate);
    }
    void send(FrameKind kind, std::uint32_t value, std::uint64_t sequence) {
        send_message<kFrameBytes>(pair.theirs, Frame{kind, value, sequence});
    }
    void send_data(std::uint64_t sequence, const char* payload) {
        send(FrameKind::data, 4, sequence);
        REQUIRE(::send(pair.theirs.get(), payload, 4, MSG_NOSIGNAL) == 4);
    }
    bool receive() { return !connection.receive(kSliceBytesMax, now, done).has_value(); }
    std::string text(std::size_t tag) const {
        return {reinterpret_cast<const char*>(&memory[tag * 4]), 4};
    }

    TimePoint now{};
    Pair pair;
    ReaderConnection connection;
    Ring<fabric::Completion> done;
    std::array<std::byte, 64> memory{};
};

// The holder's end with a region of bits, and what a reader sends to it.
struct Holder {
    Holder() : pair(open_pair()), connection(std::move(pair.ours), {}, table, TimePoint{}) {
        table.add(kData, {data});
        table.add(kGates, {bits});
        send_message<kHelloBytes>(pair.theirs, Hello{});
    }
    void request(std::uint64_t sequence) {
        send_message<kRequestBytes>(pair.theirs, Request{RequestKind::read, sequence, kData, 0, 4});
    }
    void request_gated(std::uint64_t sequence, const Gate& gate, std::uint32_t turn = 0) {
        std::array<std::byte, kRequestBytes + kGateBytes> bytes;
        encode(Request{RequestKind::gated_read, sequence, kData, 0, 4, turn},
               std::span(bytes).first<kRequestBytes>());
        encode(gate, std::span(bytes).last<kGateBytes>());
        REQUIRE(::send(pair.theirs.get(), bytes.data(), bytes.size(), 0) == ssize_t{bytes.size()});
    }
    // False if the connection is to be closed.
    bool serve() {
        connection.mark_readable(false);
        if (!connection.receive()) return false;
        connection.look_at_new_gates();
        while (connection.can_send()) {
            std::atomic<std::uint64_t> sent = 0;
            if (!connection.send(kSliceBytesMax, sent) || !connection.receive()) return false;
            connection.look_at_new_gates();
        }
        return true;
    }
    void skip_welcome() {
        std::array<std::byte, kWelcomeBytes> welcome;
        REQUIRE(::recv(pair.theirs.get(), welcome.data(), welcome.size(), 0) == kWelcomeBytes);
    }
    // The next frame, its payload skipped; nothing if there is none.
    std::optional<Frame> next_frame() {
        std::array<std::byte, kFrameBytes> bytes;
        const ssize_t got = ::recv(pair.theirs.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got != kFrameBytes) return std::nullopt;
        const auto frame = decode_frame(bytes);
        REQUIRE(frame);
        std::array<std::byte, 4> payload;
        if (frame->kind == FrameKind::data) {
            REQUIRE(frame->value == 4);
            REQUIRE(::recv(pair.theirs.get(), payload.data(), 4, 0) == 4);
        }
        return frame;
    }
    // Of the next answer.
    std::uint64_t next_sequence() {
        const auto first = next_frame();
        REQUIRE(first);
        REQUIRE(first->kind == FrameKind::data);
        const auto end = next_frame();
        REQUIRE(end);
        REQUIRE(end->kind == FrameKind::end);
        REQUIRE(end->value == static_cast<std::uint32_t>(EndStatus::ok));
        REQUIRE(end->sequence == first->sequence);
        return end->sequence;
    }

    RegionTable table;
    std::array<std::byte, 4> data{};
    std::array<std::byte, 16> bits{};
    Pair pair;
    ServerConnection connection;
};

std::unique_ptr<fabric::Fabric> opened(const fabric::FabricOptions& options) {
    auto fabric = open_tcp(options);
    REQUIRE_OK(fabric);
    return std::move(fabric).value();
}

// Bytes that a fabric offers, with gates, and another one that is linked to it.
struct Offer {
    Offer(const fabric::FabricOptions& of_holder, const fabric::FabricOptions& of_reader,
          std::size_t bytes)
        : holder(opened(of_holder)),
          reader(opened(of_reader)),
          data(bytes),
          session(*reader, bytes),
          link(reader->connect({holder->address(), of_holder.incarnation})) {
        auto of_data = holder->register_memory({data}, fabric::Access::remote_read);
        auto of_bits = holder->register_memory({bits}, fabric::Access::remote_read);
        REQUIRE_OK(of_data);
        REQUIRE_OK(of_bits);
        region = std::move(of_data).value();
        gates = std::move(of_bits).value();
    }
    std::atomic_ref<std::uint64_t> word(std::uint64_t bit) {
        return std::atomic_ref(reinterpret_cast<std::uint64_t*>(bits.data())[bit / 64]);
    }

    std::unique_ptr<fabric::Fabric> holder;
    std::unique_ptr<fabric::Fabric> reader;
    std::vector<std::byte> data;
    alignas(8) std::array<std::byte, 512> bits{};
    std::unique_ptr<fabric::Region> region;
    std::unique_ptr<fabric::Region> gates;
    contract::Session session;
    fabric::LinkId link;
};

}  // namespace

TEST_CASE("a tcp reader takes answers to gated reads at any place") {
    Reader reader;
    reader.request(0, Gate{kGates, 0});
    reader.request(1);
    reader.request(2, Gate{kGates, 1});
    reader.request(3);
    for (const auto& [sequence, payload] :
         {std::pair(1, "beta"), std::pair(2, "gamm"), std::pair(0, "alph"), std::pair(3, "delt")}) {
        reader.send_data(static_cast<std::uint64_t>(sequence), payload);
        reader.send(FrameKind::end, 0, static_cast<std::uint64_t>(sequence));
        REQUIRE(reader.receive());
        REQUIRE(reader.done.size() == 1);
        REQUIRE(reader.done.front().tag.value == static_cast<std::uint64_t>(sequence));
        REQUIRE(reader.done.front().status == ReadStatus::ok);
        REQUIRE(reader.text(static_cast<std::size_t>(sequence)) == payload);
        reader.done.pop();
    }
    REQUIRE(reader.connection.outstanding_bytes() == 0);
    REQUIRE(!reader.connection.deadline(Duration(1)));
}

TEST_CASE("a tcp reader refuses answers that mix or overtake reads without a gate") {
    SECTION("another answer begins before the end of one") {
        Reader reader;
        reader.request(0, Gate{kGates, 0});
        reader.request(1);
        reader.send_data(1, "beta");
        reader.send_data(0, "alph");
        REQUIRE(!reader.receive());
    }
    SECTION("the second is answered first") {
        Reader reader;
        reader.request(0);
        reader.request(1);
        reader.send_data(1, "beta");
        REQUIRE(!reader.receive());
    }
}

TEST_CASE("a waiting frame puts off the deadline of a tcp reader") {
    constexpr Duration kProgress = std::chrono::seconds(2);
    Reader reader;
    reader.now += std::chrono::hours(1);
    reader.request(0, Gate{kGates, 0});
    REQUIRE(reader.connection.deadline(kProgress) == reader.now + kProgress);
    reader.now += std::chrono::seconds(1);
    reader.send(FrameKind::waiting, 0, 0);
    REQUIRE(reader.receive());
    REQUIRE(reader.done.empty());
    REQUIRE(reader.connection.deadline(kProgress) == reader.now + kProgress);
    reader.send(FrameKind::end, 1, 0);
    REQUIRE(reader.receive());
    REQUIRE(reader.done.front().status == ReadStatus::access_denied);
    REQUIRE(!reader.connection.deadline(kProgress));
}

TEST_CASE("a tcp reader that waits for nothing refuses a waiting frame") {
    Reader reader;
    reader.request(0);
    reader.request(1, Gate{kGates, 0});
    SECTION("of a read without a gate") { reader.send(FrameKind::waiting, 0, 0); }
    SECTION("of a read that there is not") { reader.send(FrameKind::waiting, 0, 2); }
    SECTION("of a read that is over") {
        reader.send(FrameKind::end, 1, 1);
        reader.send(FrameKind::waiting, 0, 1);
    }
    REQUIRE(!reader.receive());
}

TEST_CASE("a tcp holder knows a reader's turn by its latest gated request") {
    Holder holder;
    holder.request_gated(0, {kGates, 70}, 2);
    REQUIRE(holder.serve());
    CHECK(holder.connection.turn() == 2);
    holder.request_gated(1, {kGates, 71}, 1);
    holder.request(2);
    REQUIRE(holder.serve());
    CHECK(holder.connection.turn() == 1);
}

TEST_CASE("a tcp holder answers gated requests once their bits are set") {
    Holder holder;
    holder.request_gated(0, {kGates, 70});
    holder.request(1);
    holder.request_gated(2, {kGates, 3});
    holder.request_gated(3, {kGates, 70});
    holder.request(4);
    REQUIRE(holder.serve());
    holder.skip_welcome();
    REQUIRE(holder.next_sequence() == 1);
    REQUIRE(holder.next_sequence() == 4);
    REQUIRE(!holder.next_frame());
    REQUIRE(holder.connection.parked() == 3);
    holder.bits[8] = std::byte{1U << 6U};
    holder.connection.look_at_gates();
    REQUIRE(holder.connection.parked() == 1);
    REQUIRE(holder.serve());
    REQUIRE(holder.next_sequence() == 0);
    REQUIRE(holder.next_sequence() == 3);
    holder.request_gated(5, {kGates, 70});
    REQUIRE(holder.serve());
    REQUIRE(holder.next_sequence() == 5);
    // A reader that is gone takes with it what it waited for.
    holder.pair.theirs.reset();
    REQUIRE(!holder.serve());
}

TEST_CASE("a tcp holder that has nothing to send says that requests wait") {
    Holder holder;
    REQUIRE(holder.serve());
    holder.skip_welcome();
    for (int i = 0; i < 3; ++i) REQUIRE(holder.connection.say_waiting());
    REQUIRE(!holder.next_frame());
    holder.request_gated(7, {kGates, 1});
    holder.request_gated(8, {kGates, 0});
    REQUIRE(holder.serve());
    const auto says_waiting = [&](std::uint64_t sequence) {
        REQUIRE(holder.connection.say_waiting());
        const auto frame = holder.next_frame();
        if (!frame) return false;
        REQUIRE(frame->kind == FrameKind::waiting);
        REQUIRE(frame->sequence == sequence);
        return true;
    };
    // Its own frame counts as sent.
    REQUIRE(says_waiting(7));
    REQUIRE(!says_waiting(7));
    REQUIRE(says_waiting(7));
    REQUIRE(!says_waiting(7));
    holder.request(9);
    REQUIRE(holder.serve());
    REQUIRE(holder.next_sequence() == 9);
    REQUIRE(!says_waiting(7));
    REQUIRE(says_waiting(7));
    holder.bits[0] = std::byte{2};
    holder.connection.look_at_gates();
    REQUIRE(holder.serve());
    REQUIRE(holder.next_sequence() == 7);
    REQUIRE(!says_waiting(8));
    REQUIRE(says_waiting(8));
}

TEST_CASE("a tcp holder leaves gated requests beyond its limit in the socket") {
    constexpr std::uint64_t kCount = ServerConnection::kRequestsMax + 100;
    Holder holder;
    for (std::uint64_t i = 0; i < kCount; ++i) {
        holder.request_gated(i, {kGates, 0});
        if (i % 16 == 0) REQUIRE(holder.serve());
        REQUIRE(holder.connection.parked() <= ServerConnection::kRequestsMax);
    }
    holder.request(kCount);
    REQUIRE(holder.serve());
    holder.skip_welcome();
    REQUIRE(!holder.next_frame());
    holder.bits[0] = std::byte{1};
    holder.connection.look_at_gates();
    std::set<std::uint64_t> answered;
    while (answered.size() <= kCount) {
        REQUIRE(holder.serve());
        holder.connection.mark_writable();
        REQUIRE(answered.insert(holder.next_sequence()).second);
    }
}

TEST_CASE("no bit that is set goes unseen by a tcp holder") {
    constexpr std::uint64_t kCount = 4096;
    constexpr std::uint64_t kBytes = 64;
    // So patient that it looks at no gate again by itself before the test has failed.
    fabric::FabricOptions patient = contract::fresh_options();
    patient.progress_ms_max = 1U << 30U;
    Offer offer(patient, patient, kCount * kBytes);
    contract::Session& session = offer.session;
    std::atomic<std::uint64_t> submitted = 0;
    std::jthread setter([&](const std::stop_token& stop) {
        for (std::uint64_t i = 0; i < kCount && !stop.stop_requested(); ++i) {
            const auto piece = std::span(offer.data)
                                   .subspan(static_cast<std::size_t>(i * kBytes),
                                            static_cast<std::size_t>(kBytes));
            kit::fill_pattern(piece, i);
            // Some before their read is sent, some at about the time when it arrives.
            while (i % 8 != 0 && submitted.load() < i && !stop.stop_requested()) {
                std::this_thread::yield();
            }
            offer.word(i).fetch_or(std::uint64_t{1} << (i % 64), std::memory_order_release);
            offer.holder->gates_opened();
        }
    });
    for (std::uint64_t i = 0; i < kCount; ++i) {
        session.read(offer.link, offer.region->key(), {i * kBytes, i * kBytes, kBytes},
                     {offer.gates->key(), i});
        submitted.store(i + 1);
        if (session.outstanding() >= 32) session.finish_some(session.completed() + 1);
    }
    setter.join();
    session.finish();
    for (std::uint64_t i = 0; i < kCount; ++i) {
        REQUIRE(session.status(fabric::ReadTag(i + 1)) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local({0, i * kBytes, kBytes}), i, 0));
    }
    REQUIRE(offer.holder->bytes_served() == offer.data.size());
}

TEST_CASE("a tcp holder with a rate cap goes on with what a gate has opened") {
    constexpr std::uint64_t kBytes = 64U << 10U;
    constexpr std::uint64_t kCount = 6;
    fabric::FabricOptions capped = contract::fresh_options();
    capped.serve_rate_max = 2U << 20U;
    Offer offer(capped, contract::fresh_options(), kCount * kBytes);
    contract::Session& session = offer.session;
    for (std::uint64_t i = 0; i < kCount; ++i) {
        session.read(offer.link, offer.region->key(), {i * kBytes, i * kBytes, kBytes},
                     {offer.gates->key(), 0});
    }
    session.poll_once();
    kit::fill_pattern(offer.data, 1);
    offer.word(0).store(1, std::memory_order_release);
    offer.holder->gates_opened();
    session.finish();
    for (std::uint64_t i = 0; i < kCount; ++i) {
        REQUIRE(session.status(fabric::ReadTag(i + 1)) == ReadStatus::ok);
    }
    REQUIRE(kit::has_pattern(session.local({0, 0, offer.data.size()}), 1, 0));
}

}  // namespace weightcast::transport::tcp
