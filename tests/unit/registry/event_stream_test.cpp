// Goal: a stream of events is read as the standard says, and no more of it is kept than its limits
// allow. Method: the examples of the standard; tests/fuzz/event_stream_fuzz.cpp cuts everywhere.
#include "registry/event_stream.h"

#include <vector>

#include "tests/kit/catch.h"

namespace weightcast::registry {
namespace {

using Texts = std::vector<std::string>;

// "name|data|id" of each event.
Texts events_of(std::string_view text) {
    EventStreamParser parser;
    Texts events;
    REQUIRE_OK(parser.push(text, [&events](const StreamEvent& event) {
        events.push_back(event.name + "|" + event.data + "|" + event.id);
    }));
    return events;
}

TEST_CASE("events end with an empty line, lines with any line end") {
    const Texts wanted{"a|1\n2|7", "message|3|7"};
    CHECK(events_of("event: a\nid: 7\ndata: 1\ndata: 2\n\ndata: 3\n\n") == wanted);
    CHECK(events_of("event: a\rid: 7\rdata: 1\rdata: 2\r\rdata: 3\r\r") == wanted);
    CHECK(events_of("event: a\r\nid: 7\r\ndata: 1\r\ndata: 2\r\n\r\ndata: 3\r\n\r\n") == wanted);
    CHECK(events_of("data: 1\n").empty());
    CHECK(events_of("data: 1").empty());
}

TEST_CASE("fields are as the standard has them") {
    CHECK(events_of("data\n\ndata\ndata\n\ndata:\n") == Texts{"message||", "message|\n|"});
    CHECK(events_of("data:a\n\ndata: a\n\ndata:  a\n\n") ==
          Texts{"message|a|", "message|a|", "message| a|"});
    CHECK(events_of(": hello\n\nevent: a\n\ndata: x\nretry: 9\nother: y\n\n") ==
          Texts{"message|x|"});
    CHECK(events_of("data: 1\nid: 7\n\ndata: 2\nid\n\n") == Texts{"message|1|7", "message|2|"});
    CHECK(events_of(std::string_view("id: a\0b\ndata: 1\n\n", 17)) == Texts{"message|1|"});
    CHECK(events_of("\xEF\xBB\xBF"
                    "data: 1\n\n\xEF\xBB\xBF"
                    "data: 2\n\n") == Texts{"message|1|"});
}

TEST_CASE("a line or an event that is too large is an error for ever") {
    const auto ignore = [](const StreamEvent&) {};
    EventStreamParser lines;
    const std::string most(EventStreamParser::kLineBytesMax, ':');
    REQUIRE_OK(lines.push(most, ignore));
    REQUIRE_OK(lines.push("\n" + most, ignore));
    const auto long_line = lines.push(":", ignore);
    REQUIRE(long_line.has_error());
    CHECK(long_line.error().message.find("65536 bytes") != std::string::npos);
    CHECK(lines.push("\n", ignore).has_error());

    EventStreamParser events;
    const std::string half = "data:" + std::string(EventStreamParser::kEventBytesMax / 2, 'a');
    REQUIRE_OK(events.push(half + "\n\n" + half + "\n", ignore));
    const auto long_event = events.push(half + "\n", ignore);
    REQUIRE(long_event.has_error());
    CHECK(long_event.error().message.find("an event of the stream") != std::string::npos);
    CHECK(events.push("", ignore).has_error());
}

}  // namespace
}  // namespace weightcast::registry
