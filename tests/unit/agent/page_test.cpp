// Goal: a page says what was verified and nothing else. Method: write it, read it back as a peer.
#include "agent/page.h"

#include <array>
#include <cstring>
#include <vector>

#include "tests/kit/catch.h"

namespace weightcast::agent {
namespace {

constexpr std::array<std::byte, 16> kIncarnation{std::byte{7}};

std::vector<std::byte> copy_of(const AvailabilityPage& page) {
    const auto span = page.memory().pages.span();
    return {span.begin(), span.end()};
}

TEST_CASE("a page tells its reader which chunks may be read") {
    auto made = AvailabilityPage::create(kIncarnation, 3, 130);
    REQUIRE_OK(made);
    AvailabilityPage& page = made.value();
    page.set(0);
    page.set(129);
    page.set(129);
    const auto view = parse_page(copy_of(page), 130);
    REQUIRE_OK(view);
    CHECK(view.value().incarnation == kIncarnation);
    CHECK(view.value().generation == 3);
    CHECK(view.value().state == PageState::partial);
    CHECK(view.value().held == 2);
    CHECK(view.value().words == std::vector<std::uint64_t>{1, 0, 2});
}

TEST_CASE("a page with every chunk is complete") {
    auto page = AvailabilityPage::create(kIncarnation, 1, 65);
    REQUIRE_OK(page);
    page.value().set_all();
    CHECK(parse_page(copy_of(page.value()), 65).value().state == PageState::complete);
}

TEST_CASE("a withdrawn page has another generation") {
    auto page = AvailabilityPage::create(kIncarnation, 1, 8);
    REQUIRE_OK(page);
    page.value().set_all();
    page.value().withdraw();
    const auto view = parse_page(copy_of(page.value()), 8).value();
    CHECK(view.state == PageState::withdrawn);
    CHECK(view.generation == 2);
}

TEST_CASE("bytes that are no page of this version are refused") {
    auto page = AvailabilityPage::create(kIncarnation, 1, 100);
    REQUIRE_OK(page);
    std::vector<std::byte> bytes = copy_of(page.value());
    CHECK(parse_page(bytes, 200).has_error());
    CHECK(parse_page(bytes, 101).has_error());
    CHECK(parse_page(std::span(bytes).first(10), 100).has_error());
    bytes[0] = std::byte{0};
    CHECK(parse_page(bytes, 100).has_error());
}

TEST_CASE("bits behind the last chunk are not believed") {
    auto page = AvailabilityPage::create(kIncarnation, 1, 10);
    REQUIRE_OK(page);
    std::vector<std::byte> bytes = copy_of(page.value());
    std::memset(bytes.data() + kPageHeaderBytes, 0xff, 8);
    CHECK(parse_page(bytes, 10).value().words == std::vector<std::uint64_t>{0x3ff});
}

TEST_CASE("the bucket bitmap has the whole buckets") {
    auto page = AvailabilityPage::create(kIncarnation, 1, 10);
    REQUIRE_OK(page);
    for (const std::uint32_t chunk : {0U, 1U, 2U, 3U, 5U, 8U, 9U}) page.value().set(chunk);
    CHECK(page.value().bucket_bitmap(4) == std::vector<std::byte>{std::byte{0b101}});
}

}  // namespace
}  // namespace weightcast::agent
