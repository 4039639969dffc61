// Goal: the memory fabric's faults happen as asked, and a seed repeats everything.
// Method: one holder and one reader in a world; faults are switched on between reads.
#include <array>
#include <set>

#include "tests/contract/served.h"
#include "tests/contract/support.h"
#include "tests/kit/pattern.h"
#include "transport/memory/memory_fabric.h"

namespace weightcast::contract {
namespace {

using transport::MemoryWorld;

struct Pair {
    explicit Pair(std::uint64_t seed) : world(seed) {
        FabricOptions options;
        options.progress_ms_max = 100;
        holder = std::move(world.open(options)).value();
        reader = std::move(world.open(options)).value();
        served = std::make_unique<Served>(*holder, std::vector<RegionPlan>{{kMiB, 1}});
        link = reader->connect({holder->address(), options.incarnation});
    }
    transport::MemoryFaults& faults() { return world.faults(holder->address()); }

    MemoryWorld world;
    std::unique_ptr<Fabric> holder;
    std::unique_ptr<Fabric> reader;
    std::unique_ptr<Served> served;
    LinkId link;
};

std::vector<std::uint64_t> order_of_completion(std::uint64_t seed) {
    Pair pair(seed);
    pair.faults().delay_polls_max = 10;
    std::vector<std::byte> memory(kMiB);
    const auto region = pair.reader->register_memory({memory}, fabric::Access::local);
    REQUIRE_OK(region);
    const RegionKey key = pair.served->key(0);
    for (std::uint64_t i = 0; i < 32; ++i) {
        const fabric::Read read{pair.link, key, i, region.value().get(), i, 1, ReadTag(i)};
        pair.reader->submit({&read, 1});
    }
    std::vector<std::uint64_t> order;
    for (int polls = 0; order.size() < 32 && polls < 1000; ++polls) {
        std::array<fabric::Completion, 3> done;
        const std::size_t count = pair.reader->poll(done);
        for (std::size_t i = 0; i < count; ++i) order.push_back(done[i].tag.value);
    }
    return order;
}

}  // namespace

TEST_CASE("a memory world repeats its order from the seed") {
    const auto order = order_of_completion(5);
    REQUIRE(std::set(order.begin(), order.end()).size() == 32);
    REQUIRE(!std::ranges::is_sorted(order));
    REQUIRE(order_of_completion(5) == order);
    REQUIRE(order_of_completion(6) != order);
}

TEST_CASE("a memory world flips a bit of the read that it was told to") {
    Pair pair(7);
    pair.faults().corrupt_read = 2;
    Session session(*pair.reader, 4096);
    for (int i = 1; i <= 3; ++i) {
        REQUIRE(session.read_now(pair.link, pair.served->key(0), {0, 0, 4096}) == ReadStatus::ok);
        std::size_t wrong = 0;
        for (std::size_t at = 0; at < 4096; ++at) {
            wrong += session.local()[at] != kit::pattern_byte(1, at);
        }
        REQUIRE(wrong == (i == 2 ? 1U : 0U));
    }
}

TEST_CASE("a read that a memory world loses times out") {
    Pair pair(8);
    pair.faults().loss = 1;
    Session session(*pair.reader, 64);
    REQUIRE(session.read_now(pair.link, pair.served->key(0), {0, 0, 64}) == ReadStatus::timed_out);
    REQUIRE(!pair.reader->link_error(pair.link).empty());
}

TEST_CASE("keys that a memory world expires are denied") {
    Pair pair(9);
    Session session(*pair.reader, 64);
    REQUIRE(session.read_now(pair.link, pair.served->key(0), {0, 0, 64}) == ReadStatus::ok);
    pair.world.expire_keys(pair.holder->address());
    REQUIRE(session.read_now(pair.link, pair.served->key(0), {0, 0, 64}) ==
            ReadStatus::access_denied);
}

TEST_CASE("another peer at the address of one that was killed is another incarnation") {
    Pair pair(10);
    const std::string address = pair.holder->address();
    const FabricOptions options = fresh_options();
    REQUIRE(pair.world.open(options, address).error().code == Code::conflict);
    pair.world.kill(address);
    const auto second = pair.world.open(options, address);
    REQUIRE_OK(second);
    Session session(*pair.reader, 64);
    const LinkId link = pair.reader->connect({address, {}});
    const RegionKey key(16);
    REQUIRE(session.read_now(link, key, {0, 0, 64}) == ReadStatus::stale_peer);
}

}  // namespace weightcast::contract
