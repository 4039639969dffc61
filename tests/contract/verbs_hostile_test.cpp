// Goal: whatever a request for a connection says, the holder goes on serving.
// Method: seeded requests, most of them broken in one place, through librdmacm and out of band;
// after each batch an honest reader reads.
#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/socket.h"
#include "tests/contract/verbs_site.h"
#include "tests/kit/pattern.h"
#include "transport/verbs/handles.h"
#include "transport/verbs/wire.h"

namespace weightcast::contract {
namespace {

namespace verbs = transport::verbs;

constexpr int kRequests = 60;
constexpr std::size_t kPrivateBytesMax = 56;

// An honest request, cut or with some bytes changed.
std::vector<std::byte> mutate(std::vector<std::byte> bytes, std::size_t bytes_max, Random& random) {
    for (std::uint64_t change = random.below(4); change > 0 && !bytes.empty(); --change) {
        bytes[static_cast<std::size_t>(random.below(bytes.size()))] =
            static_cast<std::byte>(random.below(256));
    }
    if (random.below(3) == 0) bytes.resize(static_cast<std::size_t>(random.below(bytes_max + 1)));
    return bytes;
}

std::vector<std::byte> honest_hello(const fabric::PeerAddress& holder, Random& random) {
    verbs::Hello hello;
    hello.mtu = 3;
    hello.expected = holder.incarnation;
    hello.reader = random_identity();
    hello.lane = static_cast<std::uint32_t>(random.below(3));
    hello.generation = static_cast<std::uint32_t>(random.below(3));
    std::vector<std::byte> bytes(verbs::kHelloBytes);
    verbs::encode(hello, std::span(bytes).first<verbs::kHelloBytes>());
    return bytes;
}

// Blocking, and without a queue pair behind it.
void request_by_cm(SocketAddress holder, const std::vector<std::byte>& data, Random& random) {
    ::rdma_cm_id* id = nullptr;
    REQUIRE(::rdma_create_id(nullptr, &id, nullptr, RDMA_PS_TCP) == 0);
    const verbs::CmHandle owner(id);
    constexpr int kResolveMs = 5000;
    REQUIRE(::rdma_resolve_addr(id, nullptr, holder.get(), kResolveMs) == 0);
    REQUIRE(::rdma_resolve_route(id, kResolveMs) == 0);
    ::rdma_conn_param request{};
    request.private_data = data.data();
    request.private_data_len = static_cast<std::uint8_t>(data.size());
    request.initiator_depth = static_cast<std::uint8_t>(random.below(17));
    request.responder_resources = static_cast<std::uint8_t>(random.below(17));
    request.retry_count = 1;
    request.qp_num = static_cast<std::uint32_t>(random.below(1U << 24U));
    ::rdma_connect(id, &request);  // accepted or rejected, as the holder likes
}

// What the holder answers, until it closes.
std::vector<std::byte> request_out_of_band(const SocketAddress& control,
                                           const std::vector<std::byte>& data) {
    UniqueFd socket(::socket(control.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(socket.get(), control.get(), control.bytes) == 0);
    REQUIRE(::send(socket.get(), data.data(), data.size(), MSG_NOSIGNAL) ==
            static_cast<::ssize_t>(data.size()));
    ::shutdown(socket.get(), SHUT_WR);
    std::vector<std::byte> answer(256);
    std::size_t received = 0;
    while (received < answer.size()) {
        const auto count =
            ::recv(socket.get(), answer.data() + received, answer.size() - received, 0);
        if (count <= 0) break;
        received += static_cast<std::size_t>(count);
    }
    answer.resize(received);
    return answer;
}

void read_honestly(Site& site, const Holder& holder) {
    const auto fabric = site.open(fresh_options());
    Session session(*fabric, kMiB);
    const LinkId link = fabric->connect(holder.peer());
    const ReadStatus status = session.read_now(link, holder.key(0), {0, 0, kMiB});
    INFO(fabric->link_error(link));
    REQUIRE(status == ReadStatus::ok);
    REQUIRE(kit::has_pattern(session.local(), 1, 0));
}

}  // namespace

TEST_CASE("no private data of a connection request harms a holder") {
    on_verbs([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 1}}, fresh_options());
        const auto address = verbs::HolderAddress::parse(holder->peer().address);
        REQUIRE(address);
        if (!address->rails[0]) return;
        Random random(11);
        for (int i = 0; i < kRequests; ++i) {
            INFO("request " << i);
            const auto hello = honest_hello(holder->peer(), random);
            request_by_cm(*address->rails[0], mutate(hello, kPrivateBytesMax, random), random);
        }
        read_honestly(site, *holder);
    });
}

TEST_CASE("no out-of-band request harms a holder") {
    on_verbs([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 1}}, fresh_options());
        const auto address = verbs::HolderAddress::parse(holder->peer().address);
        REQUIRE(address);
        REQUIRE(address->control);
        Random random(12);
        constexpr std::size_t kAnswerBytes = verbs::kWelcomeBytes + verbs::kPairAddressBytes;
        int accepted = 0;
        for (int i = 0; i < kRequests; ++i) {
            INFO("request " << i);
            auto bytes = honest_hello(holder->peer(), random);
            verbs::PairAddress pair;
            pair.number = static_cast<std::uint32_t>(random.below(1U << 24U));
            pair.gid[10] = pair.gid[11] = std::byte{0xFF};
            pair.gid[12] = std::byte{10};
            pair.gid[15] = std::byte{1};
            bytes.resize(verbs::kHelloBytes + verbs::kPairAddressBytes);
            verbs::encode(pair, std::span(bytes).last<verbs::kPairAddressBytes>());
            const auto answer = request_out_of_band(
                *address->control, mutate(bytes, verbs::kHelloBytes + 100, random));
            REQUIRE(answer.size() <= kAnswerBytes);
            accepted += answer.size() == kAnswerBytes;
        }
        // Some were honest enough, so that more than the first check was reached.
        CHECK(accepted > 0);
        read_honestly(site, *holder);
    });
}

}  // namespace weightcast::contract
