// Goal: every fabric keeps the contract of lib/fabric/fabric.h.
// Method: one suite, run against each site of fabrics.h. Holders serve seeded patterns, so that a
// byte in a wrong place shows; peers are killed, stopped and truncated while they serve.
#include <algorithm>
#include <array>

#include "base/random.h"
#include "tests/contract/support.h"
#include "tests/kit/pattern.h"

namespace weightcast::contract {
TEST_CASE("a read brings exactly the bytes that were asked for") {
    on_every_fabric([](Site& site) {
        const auto holder = site.start_holder({{9 * kMiB + 7, 1}, {1, 2}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        REQUIRE(fabric->can_reach(holder->peer().address));
        Session session(*fabric, 9 * kMiB + 64);
        const LinkId link = fabric->connect(holder->peer());
        const Piece pieces[] = {
            {0, 0, 1},
            {1, 3, 2},
            {4095, 1, 4098},
            {0, 5, 9 * kMiB + 7},
            {9 * kMiB + 6, 17, 1},
            {kMiB - 1, 0, kMiB + 2},
            {13, 29, 3 * kMiB + 1},
        };
        for (const Piece piece : pieces) {
            std::ranges::fill(session.local(), std::byte{0xEE});
            REQUIRE(session.read_now(link, holder->key(0), piece) == ReadStatus::ok);
            REQUIRE(kit::has_pattern(session.local(piece), 1, piece.remote_offset));
            const auto end = static_cast<std::size_t>(piece.local_offset + piece.bytes);
            REQUIRE(all_are(session.local().first(static_cast<std::size_t>(piece.local_offset)),
                            std::byte{0xEE}));
            REQUIRE(all_are(session.local().subspan(end), std::byte{0xEE}));
        }
        const Piece one{0, 0, 1};
        REQUIRE(session.read_now(link, holder->key(1), one) == ReadStatus::ok);
        REQUIRE(session.local()[0] == kit::pattern_byte(2, 0));
        REQUIRE(fabric->link_error(link).empty());
    });
}

TEST_CASE("many outstanding reads complete once each") {
    on_every_fabric([](Site& site) {
        constexpr std::uint64_t kBytes = 8 * kMiB;
        const auto holder = site.start_holder({{kBytes, 3}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kBytes);
        const LinkId link = fabric->connect(holder->peer());
        Random random(20);
        std::vector<std::pair<ReadTag, Piece>> reads;
        for (std::uint64_t at = 0; at < kBytes;) {
            const std::uint64_t bytes = std::min(1 + random.below(9000), kBytes - at);
            const Piece piece{at, at, bytes};
            reads.emplace_back(session.read(link, holder->key(0), piece), piece);
            at += bytes;
        }
        session.finish();
        REQUIRE(session.completed() == reads.size());
        for (const auto& [tag, piece] : reads) REQUIRE(session.status(tag) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local(), 3, 0));
    });
}

TEST_CASE("a read outside its region is denied and leaks nothing") {
    on_every_fabric([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 4}, {kMiB, 5}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, 2 * kMiB);
        const LinkId link = fabric->connect(holder->peer());
        constexpr std::uint64_t kHuge = ~std::uint64_t{0};
        const Piece pieces[] = {
            {kMiB, 0, 1},  {kMiB - 1, 0, 2},     {0, 0, kMiB + 1},  {kHuge, 0, 1},
            {kHuge, 0, 2}, {kHuge - 10, 0, 100}, {kHuge / 2, 0, 4}, {kMiB / 2, 0, kMiB},
        };
        for (const Piece piece : pieces) {
            INFO("offset " << piece.remote_offset << " bytes " << piece.bytes);
            std::ranges::fill(session.local(), std::byte{0});
            REQUIRE(session.read_now(link, holder->key(0), piece) == ReadStatus::access_denied);
            REQUIRE(all_are(session.local(), std::byte{0}));
        }
        const Piece whole{0, 0, kMiB};
        REQUIRE(session.read_now(link, holder->key(0), whole) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local(whole), 4, 0));
    });
}

TEST_CASE("keys that name no region are denied") {
    on_every_fabric([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 6}, {kMiB, 7}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        const Piece piece{0, 0, 4096};
        Random random(21);
        std::vector<RegionKey> keys = {{}, RegionKey(1), RegionKey(fabric::kRegionKeyBytesMax)};
        RegionKey garbage(fabric::kRegionKeyBytesMax);
        for (std::byte& b : garbage) b = static_cast<std::byte>(random.below(256));
        keys.push_back(garbage);
        for (const RegionKey& key : keys) {
            REQUIRE(session.read_now(link, key, piece) == ReadStatus::access_denied);
        }
        REQUIRE(all_are(session.local(), std::byte{0}));
        REQUIRE(session.read_now(link, holder->key(0), piece) == ReadStatus::ok);
    });
}

TEST_CASE("the key of a destroyed region reads nothing any more") {
    on_every_fabric([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 8}, {kMiB, 9}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        LinkId link = fabric->connect(holder->peer());
        const Piece piece{0, 0, kMiB};
        REQUIRE(session.read_now(link, holder->key(0), piece) == ReadStatus::ok);
        holder->drop(0);
        holder->overwrite(0, 99);
        std::ranges::fill(session.local(), std::byte{0});
        const ReadStatus status = session.read_now(link, holder->key(0), piece);
        REQUIRE((status == ReadStatus::access_denied || status == ReadStatus::unreachable));
        REQUIRE(!kit::has_pattern(session.local(piece), 99, 0));
        if (status == ReadStatus::unreachable) link = fabric->connect(holder->peer());
        REQUIRE(session.read_now(link, holder->key(1), piece) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local(piece), 9, 0));
    });
}

TEST_CASE("a region can be destroyed while it is read") {
    on_every_fabric([](Site& site) {
        constexpr std::uint64_t kBytes = 16 * kMiB;
        const auto holder = site.start_holder({{kBytes, 10}, {kMiB, 11}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kBytes);
        LinkId link = fabric->connect(holder->peer());
        std::vector<ReadTag> tags;
        for (std::uint64_t i = 0; i < 16; ++i) {
            tags.push_back(session.read(link, holder->key(0), {i * kMiB, i * kMiB, kMiB}));
        }
        session.finish_some(1);
        holder->drop(0);
        holder->overwrite(0, 99);
        session.finish();
        for (std::uint64_t i = 0; i < 16; ++i) {
            const ReadStatus status = session.status(tags[static_cast<std::size_t>(i)]);
            INFO("read " << i << ": " << fabric::to_string(status));
            if (status == ReadStatus::ok) {
                REQUIRE(kit::has_pattern(session.local({0, i * kMiB, kMiB}), 10, i * kMiB));
            } else {
                REQUIRE((status == ReadStatus::access_denied || is_loss(status)));
            }
        }
        if (!fabric->link_error(link).empty()) link = fabric->connect(holder->peer());
        REQUIRE(session.read_now(link, holder->key(1), {0, 0, kMiB}) == ReadStatus::ok);
    });
}

TEST_CASE("another incarnation is a stale peer") {
    on_every_fabric([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 12}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        fabric::PeerAddress former = holder->peer();
        former.incarnation = random_identity();
        const LinkId stale = fabric->connect(former);
        const Piece piece{0, 0, 4096};
        REQUIRE(session.read_now(stale, holder->key(0), piece) == ReadStatus::stale_peer);
        REQUIRE(!fabric->link_error(stale).empty());
        REQUIRE(session.read_now(stale, holder->key(0), piece) == ReadStatus::stale_peer);
        REQUIRE(all_are(session.local(), std::byte{0}));
        const LinkId link = fabric->connect(holder->peer());
        REQUIRE(session.read_now(link, holder->key(0), piece) == ReadStatus::ok);
    });
}

TEST_CASE("where nobody listens reads complete as unreachable") {
    on_every_fabric([](Site& site) {
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, 4096);
        const LinkId link = fabric->connect(site.nobody());
        const RegionKey key(16);
        std::vector<ReadTag> tags;
        for (int i = 0; i < 3; ++i) tags.push_back(session.read(link, key, {0, 0, 4096}));
        session.finish();
        for (const ReadTag tag : tags) {
            // A fabric may know its own keys and deny these before it reaches anyone.
            REQUIRE((session.status(tag) == ReadStatus::unreachable ||
                     session.status(tag) == ReadStatus::access_denied));
        }
        REQUIRE(session.read_now(LinkId(4711), key, {0, 0, 1}) == ReadStatus::unreachable);
    });
}

}  // namespace weightcast::contract
