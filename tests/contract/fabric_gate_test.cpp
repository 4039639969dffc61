// Goal: reads with a gate wait for it and for nothing else, on every fabric that can wait.
// Method: one suite, run against each site of fabrics.h. Holders set bits, revoke regions, stop and
// die while reads wait; what is read is written just before its bit is set.
#include <algorithm>

#include "base/random.h"
#include "tests/contract/support.h"
#include "tests/kit/pattern.h"

namespace weightcast::contract {
namespace {

using Kind = RegionPlan::Kind;

// Not whole words, so that the last bits are read otherwise than the first.
constexpr std::uint64_t kGateBytes = 13;

void on_every_waiting_fabric(const std::function<void(Site&)>& body) {
    on_every_fabric([&](Site& site) {
        // Closed again before a holder is forked.
        const bool can_wait = site.open(fresh_options())->can_wait();
        if (can_wait) {
            body(site);
        } else {
            WARN("skipped: reads over this fabric cannot wait");
        }
    });
}

FabricOptions options_with(std::uint32_t progress_ms_max) {
    FabricOptions options = fresh_options();
    options.progress_ms_max = progress_ms_max;
    return options;
}

}  // namespace

TEST_CASE("a read whose gate is open is a read") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder =
            site.start_holder({{kMiB, 1}, {kGateBytes, 0, Kind::gates}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        for (const std::uint64_t bit : {0U, 7U, 8U, 63U, 64U, 103U}) {
            INFO("bit " << bit);
            holder->open_gate(1, bit);
            const Piece piece{bit, 0, kMiB - bit};
            const ReadTag tag = session.read(link, holder->key(0), piece, {holder->key(1), bit});
            session.finish();
            REQUIRE(session.status(tag) == ReadStatus::ok);
            REQUIRE(kit::has_pattern(session.local(piece), 1, bit));
        }
    });
}

TEST_CASE("a read brings what was there when its gate opened") {
    on_every_waiting_fabric([](Site& site) {
        constexpr std::uint64_t kBytes = 3 * kMiB + 5;
        const auto holder =
            site.start_holder({{kBytes, 1}, {kGateBytes, 0, Kind::gates}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kBytes);
        const LinkId link = fabric->connect(holder->peer());
        for (const std::uint64_t bit : {5U, 100U}) {
            const Piece piece{0, 0, kBytes};
            const ReadTag tag = session.read(link, holder->key(0), piece, {holder->key(1), bit});
            // Bits beside it open nothing.
            holder->open_gate(1, bit - 1);
            holder->open_gate(1, bit + 1);
            session.poll_once();
            REQUIRE(!session.has_completed(tag));
            holder->overwrite(0, 50 + bit);
            holder->open_gate(1, bit);
            session.finish();
            REQUIRE(session.status(tag) == ReadStatus::ok);
            REQUIRE(kit::has_pattern(session.local(piece), 50 + bit, 0));
        }
    });
}

TEST_CASE("many reads wait, and each comes when its own gate opens") {
    on_every_waiting_fabric([](Site& site) {
        constexpr std::uint64_t kCount = 64;
        constexpr std::uint64_t kBytes = 32 * kKiB;
        const auto holder =
            site.start_holder({{kCount * kBytes, 2}, {kCount, 0, Kind::gates}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kCount * kBytes);
        const LinkId link = fabric->connect(holder->peer());
        std::vector<ReadTag> tags;
        // Two reads of each gate, of a half each.
        for (std::uint64_t i = 0; i < 2 * kCount; ++i) {
            const Piece piece{i * kBytes / 2, i * kBytes / 2, kBytes / 2};
            tags.push_back(session.read(link, holder->key(0), piece, {holder->key(1), i / 2}));
        }
        std::vector<std::uint64_t> order(kCount);
        for (std::uint64_t i = 0; i < kCount; ++i) order[static_cast<std::size_t>(i)] = i;
        Random random(30);
        for (std::size_t i = order.size(); i > 1; --i) {
            std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(i))]);
        }
        for (const std::uint64_t bit : order) {
            holder->open_gate(1, bit);
            session.finish_some(session.completed() + 2);
            for (std::uint64_t half = 0; half < 2; ++half) {
                const ReadTag tag = tags[static_cast<std::size_t>(2 * bit + half)];
                REQUIRE(session.has_completed(tag));
                REQUIRE(session.status(tag) == ReadStatus::ok);
            }
        }
        REQUIRE(session.outstanding() == 0);
        REQUIRE(kit::has_pattern(session.local(), 2, 0));
    });
}

TEST_CASE("a read does not wait behind one that waits for its gate") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder =
            site.start_holder({{kMiB, 3}, {kGateBytes, 0, Kind::gates}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, 2 * kMiB);
        const LinkId link = fabric->connect(holder->peer());
        const ReadTag waiting =
            session.read(link, holder->key(0), {0, 0, kMiB}, {holder->key(1), 9});
        for (int i = 0; i < 3; ++i) {
            const ReadTag plain = session.read(link, holder->key(0), {0, kMiB, kMiB});
            session.finish_some(session.completed() + 1);
            REQUIRE(session.status(plain) == ReadStatus::ok);
            REQUIRE(kit::has_pattern(session.local({0, kMiB, kMiB}), 3, 0));
        }
        REQUIRE(!session.has_completed(waiting));
        holder->open_gate(1, 9);
        session.finish();
        REQUIRE(session.status(waiting) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local({0, 0, kMiB}), 3, 0));
    });
}

TEST_CASE("gates that name no bit of memory are denied") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder = site.start_holder(
            {{kMiB, 4}, {kGateBytes, 0, Kind::gates}, {kMiB, 5, Kind::file}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        RegionKey garbage = holder->key(1);
        garbage.back() ^= std::byte{1};
        const Gate gates[] = {
            {holder->key(1), 8 * kGateBytes},
            {holder->key(1), ~std::uint64_t{0}},
            {garbage, 0},
            {RegionKey(1), 0},
            {holder->key(2), 0},
        };
        for (const Gate& gate : gates) {
            const ReadTag tag = session.read(link, holder->key(0), {0, 0, 4096}, gate);
            session.finish();
            REQUIRE(session.status(tag) == ReadStatus::access_denied);
        }
        // What could never be read does not wait either.
        const ReadTag outside =
            session.read(link, holder->key(0), {kMiB, 0, 1}, {holder->key(1), 0});
        session.finish();
        REQUIRE(session.status(outside) == ReadStatus::access_denied);
        REQUIRE(all_are(session.local(), std::byte{0}));
        REQUIRE(session.read_now(link, holder->key(0), {0, 0, kMiB}) == ReadStatus::ok);
    });
}

TEST_CASE("reads that wait are denied when their gate or region is revoked") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder = site.start_holder(
            {{kMiB, 6}, {kGateBytes, 0, Kind::gates}, {kMiB, 7}, {kGateBytes, 0, Kind::gates}},
            options_with(200));
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        const Piece piece{0, 0, 4096};
        const ReadTag gate = session.read(link, holder->key(0), piece, {holder->key(1), 0});
        const ReadTag region = session.read(link, holder->key(2), piece, {holder->key(3), 0});
        const ReadTag neither = session.read(link, holder->key(0), piece, {holder->key(3), 1});
        session.poll_once();
        holder->drop(1);
        session.finish_some(1);
        REQUIRE(session.status(gate) == ReadStatus::access_denied);
        holder->drop(2);
        session.finish_some(2);
        REQUIRE(session.status(region) == ReadStatus::access_denied);
        REQUIRE(!session.has_completed(neither));
        holder->open_gate(3, 1);
        session.finish();
        REQUIRE(session.status(neither) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local(piece), 6, 0));
    });
}

TEST_CASE("disconnecting cancels reads that wait") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder =
            site.start_holder({{kMiB, 8}, {kGateBytes, 0, Kind::gates}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        std::vector<ReadTag> tags;
        for (std::uint64_t bit = 0; bit < 8; ++bit) {
            tags.push_back(session.read(link, holder->key(0), {0, 0, kMiB}, {holder->key(1), bit}));
        }
        // Some have reached the holder: those before the one that it answers.
        session.read(link, holder->key(0), {0, 0, 1});
        session.finish_some(1);
        fabric->disconnect(link);
        session.finish();
        for (const ReadTag tag : tags) REQUIRE(session.status(tag) == ReadStatus::cancelled);
        std::ranges::fill(session.local(), std::byte{0xCC});
        for (std::uint64_t bit = 0; bit < 8; ++bit) holder->open_gate(1, bit);
        const LinkId again = fabric->connect(holder->peer());
        REQUIRE(session.read_now(again, holder->key(0), {0, 0, 4096}) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local({0, 0, 4096}), 8, 0));
        REQUIRE(all_are(session.local().subspan(4096), std::byte{0xCC}));
    });
}

TEST_CASE("a read may wait for longer than anything may take without progress") {
    on_every_waiting_fabric([](Site& site) {
        constexpr std::uint32_t kProgressMsMax = 1000;
        const auto holder = site.start_holder({{kMiB, 9}, {kGateBytes, 0, Kind::gates}},
                                              options_with(kProgressMsMax));
        const auto fabric = site.open(options_with(kProgressMsMax));
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        const ReadTag tag = session.read(link, holder->key(0), {0, 0, kMiB}, {holder->key(1), 3});
        session.go_on_for(2 * kProgressMsMax + kProgressMsMax / 2);
        REQUIRE(!session.has_completed(tag));
        REQUIRE(fabric->link_error(link).empty());
        holder->open_gate(1, 3);
        session.finish();
        REQUIRE(session.status(tag) == ReadStatus::ok);
        REQUIRE(kit::has_pattern(session.local(), 9, 0));
    });
}

TEST_CASE("reads that wait are timed out when their holder stops") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder =
            site.start_holder({{kMiB, 10}, {kGateBytes, 0, Kind::gates}}, options_with(200));
        const auto fabric = site.open(options_with(200));
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        const ReadTag tag = session.read(link, holder->key(0), {0, 0, kMiB}, {holder->key(1), 3});
        session.poll_once();
        holder->pause();
        session.finish();
        REQUIRE(session.status(tag) == ReadStatus::timed_out);
        REQUIRE(!fabric->link_error(link).empty());
        holder->resume();
    });
}

TEST_CASE("reads that wait are lost with their holder") {
    on_every_waiting_fabric([](Site& site) {
        const auto holder =
            site.start_holder({{kMiB, 11}, {kGateBytes, 0, Kind::gates}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        const ReadTag tag = session.read(link, holder->key(0), {0, 0, kMiB}, {holder->key(1), 3});
        session.read(link, holder->key(0), {0, 0, 1});
        session.finish_some(1);
        holder->kill();
        session.finish();
        REQUIRE(is_loss(session.status(tag)));
    });
}

}  // namespace weightcast::contract
