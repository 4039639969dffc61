// Goal: the manifest reaches a fleet in a few rounds, no holder hands it out to more than its
// share, and nobody who dies with a turn keeps it. Method: the queue alone, on a made-up clock.
#include "registry/manifest_queue.h"

#include <map>
#include <vector>

#include "tests/kit/catch.h"

namespace weightcast::registry {
namespace {

constexpr std::uint64_t kSource = 1;
constexpr std::uint64_t kFirstReader = 100;
constexpr TimePoint kStart{};

TEST_CASE("a fleet is served in a few rounds, and the source serves few of it") {
    constexpr std::uint64_t kReaders = 4000;
    ManifestQueue queue;
    queue.add(kSource);
    std::vector<std::uint64_t> waiting;
    for (std::uint64_t i = 0; i < kReaders; ++i) waiting.push_back(kFirstReader + i);
    std::map<std::uint64_t, std::uint32_t> served;
    TimePoint now = kStart;
    std::uint32_t rounds = 0;
    for (; !waiting.empty(); ++rounds, now += std::chrono::milliseconds(10)) {
        std::vector<std::uint64_t> had, left;
        std::map<std::uint64_t, std::uint32_t> readers;
        for (const std::uint64_t reader : waiting) {
            const auto turn = queue.take(reader, now);
            if (turn.holder == 0) {
                CHECK(turn.wait >= std::chrono::milliseconds(3));
                left.push_back(reader);
                continue;
            }
            CHECK(++readers[turn.holder] <= ManifestQueue::kReadersMax);
            ++served[turn.holder];
            had.push_back(reader);
        }
        for (const std::uint64_t reader : had) {
            queue.done(reader, now + std::chrono::milliseconds(10));
            queue.add(reader);
        }
        waiting = left;
    }
    CHECK(rounds <= 4);  // 9^4 > 4001
    CHECK(served[kSource] <= 4 * ManifestQueue::kReadersMax);
}

TEST_CASE("who waits is told to come back when it can be its turn") {
    ManifestQueue queue;
    queue.add(kSource);
    std::vector<Duration> waits;
    for (std::uint64_t i = 0; i < 200; ++i) {
        const auto turn = queue.take(kFirstReader + i, kStart);
        CHECK((turn.holder == kSource) == (i < ManifestQueue::kReadersMax));
        if (turn.holder == 0) waits.push_back(turn.wait);
    }
    CHECK(waits.front() == std::chrono::milliseconds(10));  // the usual time of one turn
    CHECK(waits.back() == std::chrono::milliseconds(30));   // 8 are served, 72, and then it
    // Who asks again has waited.
    CHECK(queue.take(kFirstReader + 199, kStart).wait == std::chrono::milliseconds(10));
    // Large ones take long, and that is seen before the first is there.
    const TimePoint later = kStart + std::chrono::milliseconds(300);
    CHECK(queue.take(kFirstReader + 199, later).wait == std::chrono::milliseconds(300));
    queue.done(kFirstReader, later);
    CHECK(queue.take(kFirstReader + 199, later).holder == kSource);
}

TEST_CASE("a reader keeps its turn, unless its holder goes, and gives it back") {
    ManifestQueue queue;
    CHECK(queue.take(kFirstReader, kStart).holder == 0);
    queue.add(kSource);
    queue.add(kSource);
    CHECK(queue.take(kFirstReader, kStart).holder == kSource);
    CHECK(queue.take(kFirstReader, kStart).holder == kSource);
    queue.remove(kSource);
    CHECK(queue.take(kFirstReader, kStart).holder == 0);
    queue.add(kSource);
    for (std::uint64_t i = 0; i < ManifestQueue::kReadersMax; ++i) {
        CHECK(queue.take(kFirstReader + i, kStart).holder == kSource);
    }
    CHECK(queue.take(kFirstReader + 50, kStart).holder == 0);
    queue.done(kFirstReader, kStart);
    queue.done(kFirstReader, kStart);
    queue.forget(kFirstReader + 70);
    CHECK(queue.take(kFirstReader + 50, kStart).holder == kSource);
    CHECK(queue.take(kFirstReader + 51, kStart).holder == 0);
    queue.forget(kFirstReader + 50);
    CHECK(queue.take(kFirstReader + 52, kStart).holder == kSource);
    // Another holder is as good, and the latest is asked first.
    queue.add(2);
    queue.add(3);
    CHECK(queue.take(kFirstReader + 51, kStart).holder == 3);
    CHECK(queue.take(kFirstReader + 53, kStart).holder == 2);
}

}  // namespace
}  // namespace weightcast::registry
