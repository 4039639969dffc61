// Goal: whatever instructions a processor has, the same elements are found. Method: every variant
// against a loop over single elements, at unaligned places.
#include "delta/compare.h"

#include <cstring>
#include <memory>
#include <vector>

#include "base/random.h"
#include "tests/kit/catch.h"

namespace weightcast::delta {
namespace {

void check_changes(const Changes& changes, const std::vector<std::size_t>& expected,
                   std::size_t elements) {
    CHECK(changes.count == expected.size());
    std::array<std::uint64_t, kBlockElements / kWordBits> bitmap{};
    for (const std::size_t i : expected) bitmap[i / 64] |= std::uint64_t{1} << i % 64;
    CHECK(changes.bitmap == bitmap);
    if (changes.count == elements) return;
    CHECK(std::equal(expected.begin(), expected.end(), changes.positions.begin()));
}

TEST_CASE("each way to compare finds the elements that differ") {
    Random random(1);
    const auto changes = std::make_unique<Changes>();
    for (std::size_t round = 0; round < 400; ++round) {
        const std::size_t element_bytes = std::size_t{1} << random.below(4);
        const std::size_t elements = round % 4 == 0 ? kBlockElements : 1 + random.below(4096);
        const double share = round % 16 == 0 ? 1 : random.unit() * random.unit();
        CAPTURE(round, element_bytes, elements, share);
        std::vector<std::byte> before(1 + elements * element_bytes);
        for (std::byte& b : before) b = static_cast<std::byte>(random.next() & 255U);
        auto after = before;
        std::vector<std::size_t> expected;
        for (std::size_t i = 0; i < elements; ++i) {
            if (random.unit() >= share) continue;
            // One bit: also the highest of an element must count.
            const std::size_t bit = random.below(8 * element_bytes);
            after[1 + i * element_bytes + bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
            expected.push_back(i);
        }
        compare_for(element_bytes)(before.data() + 1, after.data() + 1, elements, *changes);
        check_changes(*changes, expected, elements);
        compare_portable_for(element_bytes)(before.data() + 1, after.data() + 1, elements,
                                            *changes);
        check_changes(*changes, expected, elements);
    }
}

}  // namespace
}  // namespace weightcast::delta
