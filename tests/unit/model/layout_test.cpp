// Goal: every byte of every artifact is in exactly one chunk, and impossible layouts are refused.
#include "model/layout.h"

#include "tests/kit/catch.h"

namespace weightcast::model {
namespace {

TEST_CASE("chunks cover every artifact in order, and no chunk spans two") {
    const std::vector<std::uint64_t> sizes{0, 1, 65536, 0, 0, 65537, 200000, 0};
    const auto made = Layout::make({.chunk_shift = 16, .chunks_per_bucket = 4}, sizes);
    REQUIRE_OK(made);
    const Layout& layout = made.value();
    CHECK(layout.chunk_count() == 1 + 1 + 2 + 4);
    CHECK(layout.bucket_count() == 2);
    CHECK(layout.total_bytes() == 1 + 65536 + 65537 + 200000);
    CHECK(layout.space_bytes() == 8 * 65536);
    std::vector<std::uint64_t> covered(sizes.size());
    for (std::uint32_t chunk = 0; chunk < layout.chunk_count(); ++chunk) {
        const ArtifactRange range = layout.chunk_range(chunk);
        CAPTURE(chunk, range.artifact);
        CHECK(range.offset == covered[range.artifact]);
        CHECK(range.bytes > 0);
        CHECK(layout.place_of(range.artifact) + range.offset == std::uint64_t{chunk} << 16U);
        CHECK(layout.bucket_of(chunk) == chunk / 4);
        covered[range.artifact] += range.bytes;
    }
    CHECK(covered == sizes);
}

TEST_CASE("a version without bytes has no chunks") {
    for (const std::vector<std::uint64_t>& sizes :
         {std::vector<std::uint64_t>{}, std::vector<std::uint64_t>{0, 0}}) {
        const auto layout = Layout::make({}, sizes);
        REQUIRE_OK(layout);
        CHECK(layout.value().chunk_count() == 0);
        CHECK(layout.value().bucket_count() == 0);
    }
    CHECK(Layout().chunk_count() == 0);
    CHECK(Layout().bucket_count() == 0);
}

TEST_CASE("layouts out of range are refused") {
    const auto refused = [](std::uint32_t shift, std::uint32_t per_bucket,
                            const std::vector<std::uint64_t>& sizes) {
        const auto layout = Layout::make({shift, per_bucket}, sizes);
        return !layout && layout.error().code == Code::invalid_input;
    };
    CHECK(refused(15, 64, {1}));
    CHECK(refused(25, 64, {1}));
    CHECK(refused(20, 0, {1}));
    CHECK(refused(20, 48, {1}));
    const std::uint64_t max = ~std::uint64_t{0};
    CHECK(refused(24, 1, {max}));
    CHECK(refused(24, 1, {max, max, max}));
    // 2^32 - 2 chunks are allowed, one byte more is not.
    const std::uint64_t most = ((std::uint64_t{1} << 32U) - 2) << 16U;
    REQUIRE_OK(Layout::make({16, 64}, {most}));
    CHECK(Layout::make({16, 64}, {most}).value().chunk_count() == 0xfffffffe);
    CHECK(refused(16, 64, {most + 1}));
    CHECK(refused(16, 64, {most, 1}));
}

}  // namespace
}  // namespace weightcast::model
