// Goal: messages survive JSON exactly, and malformed ones are refused by the field's name.
// Method: encode and decode; change one thing at a time.
#include "registry/json.h"

#include <limits>

#include "registry/validate.h"
#include "tests/kit/catch.h"
#include "tests/unit/registry/samples.h"

namespace weightcast::registry {
namespace {

constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max();

std::string decode_failure(std::string_view text) {
    const auto message = decode<CloseRequest>(text);
    REQUIRE(message.has_error());
    CHECK(message.error().code == Code::invalid_input);
    return message.error().message;
}

TEST_CASE("grant survives JSON with its largest integers and odd characters") {
    Grant grant;
    grant.pull = kLargest;
    grant.lease_ms = std::numeric_limits<std::uint32_t>::max();
    grant.version.model = "org/model";
    grant.version.root.bytes[15] = std::byte{0xab};
    grant.version.publisher = "a \"b\" \\ \x01 \n \xc3\xa9";
    HolderHint& hint = grant.holders.emplace_back();
    hint.peer = {kLargest - 1, 3};
    hint.addresses = {{"tcp", "1.2.3.4:5"}, {"ucx", ""}};
    hint.holding = sample_holding(7, false);
    hint.turn = 4;
    const std::string text = encode(grant);
    const auto back = decode<Grant>(text);
    REQUIRE_OK(back);
    CHECK(back.value().pull == kLargest);
    CHECK(back.value().version.publisher == grant.version.publisher);
    CHECK(back.value().version.root == grant.version.root);
    CHECK(back.value().holders.at(0).turn == 4);
    CHECK(back.value().holders.at(0).holding.keys.at("tcp").regions ==
          hint.holding.keys.at("tcp").regions);
    CHECK(encode(back.value()) == text);
}

TEST_CASE("numbers are strict") {
    const auto with = [](const std::string& pull) {
        return R"({"peer":{"id":1,"epoch":2},"pull":)" + pull + R"(,"completed":true})";
    };
    CHECK(decode<CloseRequest>(with("18446744073709551615")).value().pull == kLargest);
    CHECK(decode<CloseRequest>(with("0")).value().pull == 0);
    for (const char* bad : {"18446744073709551616", "-1", "1.0", "1e3", "\"1\"", "null", "[1]"}) {
        INFO(bad);
        CHECK(decode_failure(with(bad)).find("field pull must be") != std::string::npos);
    }
    CHECK(decode<PullRequest>(R"({"peer":{"id":1,"epoch":2},"model":"m","holders_max":4294967296})")
              .error()
              .message.find("field holders_max") != std::string::npos);
}

TEST_CASE("missing and wrong fields are named with their path, unknown ones ignored") {
    CHECK(decode_failure("{}") == "field peer is missing");
    CHECK(decode_failure(R"({"peer":{"id":1}})") == "field peer.epoch is missing");
    CHECK(decode_failure(R"({"peer":7})") == "field peer must be an object");
    CHECK(decode_failure("[]").find("one object") != std::string::npos);
    CHECK(decode_failure("{\"peer\":").find("malformed JSON") != std::string::npos);
    CHECK(decode_failure(std::string(1000, '[')).find("malformed JSON") != std::string::npos);
    REQUIRE_OK(decode<LeaveRequest>(R"({"peer":{"id":1,"epoch":2,"x":[]},"later":{"y":1}})"));
    CHECK(decode<HolderReport>(
              R"({"reporter":{"id":1,"epoch":2},"holder":1,"model":"m","version":1,"kind":"x"})")
              .error()
              .message.find("field kind") != std::string::npos);
}

TEST_CASE("digests and keys must be hexadecimal of the right length") {
    std::string text = encode(sample_publish({1, 2}, 1, "one"));
    REQUIRE_OK(decode<PublishRequest>(text));
    const auto at = text.find("\"root\":\"") + 8;
    for (const char wrong : {'g', 'A', ' '}) {
        text[at] = wrong;
        CHECK(decode<PublishRequest>(text).error().message.find("field root") != std::string::npos);
    }
    text.erase(at, 1);
    CHECK(decode<PublishRequest>(text).error().message.find("field root") != std::string::npos);
}

TEST_CASE("absent generation stays absent, zero stays zero") {
    SetChannelRequest request{"m", "stable", 1, {}, "", ""};
    CHECK_FALSE(decode<SetChannelRequest>(encode(request)).value().expected_generation);
    request.expected_generation = 0;
    CHECK(decode<SetChannelRequest>(encode(request)).value().expected_generation == 0U);
}

TEST_CASE("event survives JSON but for its kind, and may lack the time of a move") {
    const Event event{.sequence = kLargest,
                      .model = "m",
                      .version = 7,
                      .channel = "stable",
                      .generation = 3,
                      .wall_ms = 1234,
                      .name = "me",
                      .detail = "\"better\""};
    std::string text = encode(event);
    const auto back = decode<Event>(text);
    REQUIRE_OK(back);
    CHECK(back.value().sequence == kLargest);
    CHECK(back.value().wall_ms == 1234);
    CHECK(encode(back.value()) == text);
    text.erase(text.find("\"wall_ms\""), std::string("\"wall_ms\":1234,").size());
    CHECK(decode<Event>(text).value().wall_ms == 0);
}

TEST_CASE("errors survive JSON, other texts become the fallback") {
    const Error error{Code::stale, 0, "peer \"x\" is gone"};
    const Error back = decode_error(encode_error(error), Code::io);
    CHECK(back.code == Code::stale);
    CHECK(back.message == error.message);
    CHECK(decode_error("<html>", Code::unavailable).code == Code::unavailable);
    CHECK(decode_error(R"({"error":7})", Code::io).code == Code::io);
}

TEST_CASE("limits on messages are checked by field") {
    const auto refused = [](const Result<void>& result, const std::string& word) {
        REQUIRE(result.has_error());
        CHECK(result.error().code == Code::invalid_input);
        CHECK(result.error().message.find(word) != std::string::npos);
    };
    REQUIRE_OK(check(sample_holding(1, true)));
    REQUIRE_OK(check(sample_peer("a")));
    for (const char* name : {"", "a@b", "a:b", "a b", "a\n", "\xc3\xa9"}) {
        INFO(name);
        refused(check_model_name(name), "model");
    }
    REQUIRE_OK(check_model_name("org/model-7B.Q4"));
    for (const char* name : {"", "a/b", "a b", ":x"}) refused(check_channel_name(name), "channel");
    refused(check(sample_peer(std::string(257, 'a'))), "name");
    Holding holding = sample_holding(1, true);
    holding.extents = {{0, 10, 0, 0}, {9, 10, 0, 0}};
    refused(check(holding), "overlap");
    holding.extents = {{0, kLargest, 0, 0}, {kLargest, 1, 0, 0}};
    refused(check(holding), "overlap");
    holding.extents = {{0, 10, 1, 0}};
    refused(check(holding), "region 1");
    holding = sample_holding(1, true);
    holding.buckets = "abc";
    refused(check(holding), "buckets");
}

}  // namespace
}  // namespace weightcast::registry
