// Goal: no bytes break the reader of event streams or make it grow, and the events are the same
// however the bytes were cut. The first byte of an input says how long its pieces are.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "registry/event_stream.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast;
using namespace weightcast::registry;

constexpr std::size_t kCutEverywhereBytesMax = 512;  // of longer ones it takes too long

struct Read {
    std::vector<std::string> events;
    std::string failure;

    bool operator==(const Read&) const = default;
};

void push(EventStreamParser& parser, std::string_view piece, Read& read) {
    const auto pushed = parser.push(piece, [&read](const StreamEvent& event) {
        WEIGHTCAST_ASSERT(event.name.size() + event.data.size() + event.id.size() <=
                          EventStreamParser::kEventBytesMax);
        WEIGHTCAST_ASSERT(!event.name.empty() && event.id.find('\0') == std::string::npos);
        for (const std::string* const text : {&event.name, &event.id}) {
            WEIGHTCAST_ASSERT(text->find_first_of("\r\n") == std::string::npos);
        }
        WEIGHTCAST_ASSERT(event.data.find('\r') == std::string::npos);
        read.events.push_back(event.name + '\n' + event.id + '\n' + event.data);
    });
    if (pushed) {
        WEIGHTCAST_ASSERT(read.failure.empty());
        return;
    }
    WEIGHTCAST_ASSERT(pushed.error().code == Code::invalid_input);
    WEIGHTCAST_ASSERT(read.failure.empty() || read.failure == pushed.error().message);
    read.failure = pushed.error().message;
}

Read read_in_pieces(std::string_view text, std::size_t piece_bytes) {
    EventStreamParser parser;
    Read read;
    while (!text.empty()) {
        push(parser, text.substr(0, piece_bytes), read);
        text.remove_prefix(std::min(piece_bytes, text.size()));
    }
    return read;
}

Read read_in_two(std::string_view text, std::size_t cut) {
    EventStreamParser parser;
    Read read;
    push(parser, text.substr(0, cut), read);
    push(parser, text.substr(cut), read);
    return read;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    const std::string usual =
        "id: 7\nevent: channel_moved\ndata: {\"a\":1}\n\n: keep-alive\n\nid: 8\nevent: resync\n"
        "data: {}\n\n";
    std::string returns = usual;
    std::replace(returns.begin(), returns.end(), '\n', '\r');
    std::string both;
    for (const char c : usual) both += c == '\n' ? std::string("\r\n") : std::string(1, c);
    const std::string odd(
        "\xEF\xBB\xBF"
        "data\ndata:\n\ndata:  b\nid: a\0b\nretry: 9\n\nevent\n\n",
        49);
    const std::string long_line = "data: " + std::string(EventStreamParser::kLineBytesMax, 'a');
    std::string long_event = "event: e\n\n";
    for (int i = 0; i < 3; ++i) long_event += "data: " + std::string(30000, 'b') + "\r\n";
    std::vector<std::string> seeds;
    for (const std::string& text : {usual, returns, both, odd, long_line, usual + long_event}) {
        seeds.push_back('\x03' + text);
    }
    return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const Read whole = read_in_pieces(text, text.size());
    WEIGHTCAST_ASSERT(read_in_pieces(text, 1 + std::size_t{data[0]}) == whole);
    if (text.size() > kCutEverywhereBytesMax) return 0;
    for (std::size_t cut = 0; cut < text.size(); ++cut) {
        WEIGHTCAST_ASSERT(read_in_two(text, cut) == whole);
    }
    return 0;
}
