// Goal: two doctors read each other's memory and tell how it went; whoever is no doctor is refused
// and the next one is served. Method: both sides in one process over tcp on loopback, and sockets
// that say the wrong thing.
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "tests/kit/catch.h"
#include "transport/doctor/line_channel.h"
#include "transport/doctor/peer.h"

namespace {

using namespace weightcast;
using namespace weightcast::transport::doctor;

constexpr Duration kPatience = std::chrono::seconds(10);

Offer sample_offer() {
    Offer offer;
    offer.incarnation.fill(std::byte{7});
    offer.seed = ~0ULL;
    offer.fabrics = {{"tcp", "tcp://10.0.0.1:7", {std::byte{1}, std::byte{0xff}}, ""},
                     {"verbs", "", {}, "there is no \"device\"\n"}};
    return offer;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

// A listener, and what it has told of its meetings.
class Listening {
  public:
    explicit Listening(const std::vector<std::string>& fabrics) {
        PeerOptions options;
        options.fabrics = fabrics;
        auto started = PeerListener::start(
            "127.0.0.1:0", options, [this](const std::string&, const Result<PeerReports>& met) {
                const std::lock_guard lock(mutex_);
                met_.push_back(met);
                changed_.notify_all();
            });
        REQUIRE_OK(started);
        listener_ = std::move(started).value();
    }
    std::uint16_t port() const {
        const std::string address = listener_->address();
        return static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    }
    Result<PeerReports> meeting(std::size_t number) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, kPatience, [&] { return met_.size() > number; });
        REQUIRE(met_.size() > number);
        return met_[number];
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Result<PeerReports>> met_;
    std::unique_ptr<PeerListener> listener_;  // stops before the rest goes
};

Result<PeerReports> meet(std::uint16_t port, const std::vector<std::string>& fabrics) {
    PeerOptions options;
    options.fabrics = fabrics;
    return meet_peer("127.0.0.1", port, options);
}

}  // namespace

TEST_CASE("what is said between doctors is read as it was written") {
    const auto offer = decode_offer(encode(sample_offer()));
    REQUIRE_OK(offer);
    CHECK(offer.value().incarnation == sample_offer().incarnation);
    CHECK(offer.value().seed == ~0ULL);
    REQUIRE(offer.value().fabrics.size() == 2);
    CHECK(offer.value().fabrics[0].name == "tcp");
    CHECK(offer.value().fabrics[0].address == "tcp://10.0.0.1:7");
    CHECK(offer.value().fabrics[0].key == sample_offer().fabrics[0].key);
    CHECK(offer.value().fabrics[1].error == "there is no \"device\"?");

    const auto reports = decode_reports(encode({{"tcp", "", 1.5e9, 20.25}, {"shm", "no"}}));
    REQUIRE_OK(reports);
    REQUIRE(reports.value().size() == 2);
    CHECK(reports.value()[0].bytes_per_second == 1.5e9);
    CHECK(reports.value()[0].latency_us == 20.25);
    CHECK(reports.value()[1].error == "no");
}

TEST_CASE("a malformed offer is refused and the part is named") {
    const std::string good = encode(sample_offer());
    struct Case {
        std::string line, named;
    };
    for (const Case& one : std::initializer_list<Case>{
             {"", "form"},
             {"[]", "form"},
             {"GET / HTTP/1.0\r", "form"},
             {"[[[[[[[[[[", "form"},
             {"{}", "protocol"},
             {replaced(good, "weightcast-doctor-1", "weightcast-doctor-2"), "protocol"},
             {replaced(good, "\"07", "\""), "incarnation"},
             {replaced(good, "18446744073709551615", "-1"), "seed"},
             {replaced(good, "18446744073709551615", "\"1\""), "seed"},
             {replaced(good, "\"tcp\"", "\"T C P\""), "fabric"},
             {replaced(good, "tcp://", "tcp ://"), "address"},
             {replaced(good, "01ff", "01f"), "key"},
             {replaced(good, "01ff", ""), "key"},
             {replaced(good, "01ff", std::string(2 * fabric::kRegionKeyBytesMax + 2, 'a')), "key"},
             {replaced(good, "\"fabrics\":[", "\"fabrics\":[1,"), "fabrics"},
             {replaced(good, "\"fabrics\":[", "\"fabrics\":[{},{},{},{},{},{},{},"), "fabrics"},
             {good + std::string(kLineBytesMax, ' '), "length"}}) {
        INFO(one.line.substr(0, 200));
        const auto offer = decode_offer(one.line);
        REQUIRE(!offer);
        CHECK(offer.error().code == Code::invalid_input);
        CHECK(offer.error().message.find("no proper " + one.named) != std::string::npos);
    }
    CHECK(!decode_reports(R"({"reads":[{"fabric":"a","bytes_per_second":1e99,"latency_us":0}]})"));
    CHECK(!decode_reports(R"({"reads":[{"fabric":"a","bytes_per_second":-1,"latency_us":0}]})"));
    CHECK(!decode_reports(R"({"reads":[{"fabric":"a","latency_us":0}]})"));
}

TEST_CASE("a refusal is told with the peer's reason, made printable") {
    const auto refused = decode_offer(encode_refusal("go \x1b[31maway"));
    REQUIRE(!refused);
    CHECK(refused.error().code == Code::refused);
    CHECK(refused.error().message == "the peer says: go ?[31maway");
}

TEST_CASE("both sides read, verify and measure, and know of each other's reads") {
    Listening listening({"tcp", "shm"});
    const auto asked = meet(listening.port(), {"tcp", "shm"});
    REQUIRE_OK(asked);
    const auto answered = listening.meeting(0);
    REQUIRE_OK(answered);
    for (const auto* reports : {&asked.value().ours, &asked.value().theirs, &answered.value().ours,
                                &answered.value().theirs}) {
        REQUIRE(reports->size() == 2);
        for (const ReadReport& one : *reports) {
            INFO(one.fabric << ": " << one.error);
            CHECK(one.error.empty());
            CHECK(one.bytes_per_second > 0);
            CHECK(one.latency_us > 0);
        }
    }
    const double told_us = asked.value().theirs[0].latency_us;
    CHECK(std::abs(told_us - answered.value().ours[0].latency_us) < 0.01);
}

TEST_CASE("a fabric that one side lacks fails there only, with the reason") {
    Listening listening({"tcp", "shm"});
    const auto asked = meet(listening.port(), {"tcp", "pigeon"});
    REQUIRE_OK(asked);
    REQUIRE(asked.value().ours.size() == 2);
    CHECK(asked.value().ours[0].error.empty());
    CHECK(asked.value().ours[1].error == "there is no transport named pigeon");
    REQUIRE(asked.value().theirs.size() == 1);  // nobody asked for shm
    CHECK(asked.value().theirs[0].fabric == "tcp");

    const auto again = meet(listening.port(), {"ucx"});
    REQUIRE_OK(again);
    REQUIRE(again.value().ours.size() == 1);
    CHECK_FALSE(again.value().ours[0].error.empty());
}

TEST_CASE("whoever is no doctor is refused, and the next one is served") {
    Listening listening({"tcp"});
    std::size_t meetings = 0;
    for (const std::string line : {"GET / HTTP/1.0", "{}", "\x00\xff"}) {
        auto stranger = LineChannel::connect("127.0.0.1", listening.port(), {}, kPatience);
        REQUIRE_OK(stranger);
        REQUIRE_OK(stranger.value().send(line, kPatience));
        const auto answer = stranger.value().receive(kPatience);
        REQUIRE_OK(answer);
        CHECK(decode_offer(answer.value()).error().code == Code::refused);
        CHECK(listening.meeting(meetings++).error().code == Code::invalid_input);
    }
    {
        auto flood = LineChannel::connect("localhost", listening.port(), {}, kPatience);
        REQUIRE_OK(flood);
        static_cast<void>(flood.value().send(std::string(4 * kLineBytesMax, 'x'), kPatience));
        CHECK(listening.meeting(meetings++).error().code == Code::invalid_input);
    }
    {
        // Hangs up at once, and after its offer.
        REQUIRE_OK(LineChannel::connect("127.0.0.1", listening.port(), {}, kPatience));
        CHECK(listening.meeting(meetings++).error().code == Code::unavailable);
    }
    {
        auto leaver = LineChannel::connect("127.0.0.1", listening.port(), {}, kPatience);
        REQUIRE_OK(leaver);
        REQUIRE_OK(leaver.value().send(encode(sample_offer()), kPatience));
        REQUIRE_OK(leaver.value().receive(kPatience));
    }
    CHECK(listening.meeting(meetings++).error().code == Code::unavailable);
    CHECK(meet(listening.port(), {"tcp"}).has_value());
}

TEST_CASE("bytes that are not the peer's are found") {
    // Two listeners: the second is told to read the first one's memory as if it were ours.
    Listening first({"tcp"});
    Listening second({"tcp"});
    auto to_first = LineChannel::connect("127.0.0.1", first.port(), {}, kPatience);
    auto to_second = LineChannel::connect("127.0.0.1", second.port(), {}, kPatience);
    REQUIRE_OK(to_first);
    REQUIRE_OK(to_second);
    REQUIRE_OK(to_first.value().send(encode(sample_offer()), kPatience));
    const auto line = to_first.value().receive(kPatience);
    REQUIRE_OK(line);
    auto offer = decode_offer(line.value());
    REQUIRE_OK(offer);
    offer.value().seed += 1;
    REQUIRE_OK(to_second.value().send(encode(offer.value()), kPatience));
    REQUIRE_OK(to_second.value().receive(kPatience));
    REQUIRE_OK(to_second.value().send(encode(std::vector<ReadReport>()), kPatience));
    const auto told = to_second.value().receive(kPatience);
    REQUIRE_OK(told);
    const auto reports = decode_reports(told.value());
    REQUIRE_OK(reports);
    REQUIRE(reports.value().size() == 1);
    CHECK(reports.value()[0].error == "reads complete, but with other bytes than the peer's");
}

TEST_CASE("a peer that is not there is named") {
    std::uint16_t gone = 0;
    {
        Listening listening({"tcp"});
        gone = listening.port();
    }
    const auto refused = meet(gone, {"tcp"});
    REQUIRE(!refused);
    CHECK(refused.error().code == Code::unavailable);
    CHECK(refused.error().message.find("127.0.0.1:" + std::to_string(gone)) == 0);
    PeerOptions elsewhere;
    elsewhere.from = "192.0.2.1";
    const auto bound = meet_peer("127.0.0.1", gone, elsewhere);
    REQUIRE(!bound);
    CHECK(bound.error().code == Code::invalid_input);
    CHECK(bound.error().message.find("192.0.2.1") != std::string::npos);
    const auto unknown = meet_peer("no-such-host.invalid", 1, {});
    REQUIRE(!unknown);
    CHECK(unknown.error().code == Code::not_found);
}

TEST_CASE("a listener ends at once, though a peer keeps it waiting") {
    std::optional<Listening> listening;
    listening.emplace(std::vector<std::string>{"tcp"});
    auto silent = LineChannel::connect("127.0.0.1", listening->port(), {}, kPatience);
    REQUIRE_OK(silent);
    listening.reset();
    const auto end = silent.value().receive(kPatience);
    REQUIRE(!end);
    CHECK(end.error().code == Code::unavailable);
}
