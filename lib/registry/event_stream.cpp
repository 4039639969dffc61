#include "registry/event_stream.h"

#include <fmt/core.h>

#include <utility>

namespace weightcast::registry {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

Result<void> EventStreamParser::push(std::string_view piece,
                                     const std::function<void(const StreamEvent&)>& take) {
    if (!over_limit_.empty()) return invalid_input(over_limit_);
    if (after_cr_ && !piece.empty()) {
        if (piece.front() == '\n') piece.remove_prefix(1);
        after_cr_ = false;
    }
    while (!piece.empty()) {
        const auto end = piece.find_first_of("\r\n");
        const std::string_view text = piece.substr(0, end);
        if (line_.size() + text.size() > kLineBytesMax) {
            over_limit_ =
                fmt::format("a line of the event stream is larger than {} bytes", kLineBytesMax);
            return invalid_input(over_limit_);
        }
        line_ += text;
        if (end == std::string_view::npos) break;
        const bool cr = piece[end] == '\r';
        piece.remove_prefix(end + 1);
        after_cr_ = cr && piece.empty();
        if (cr && piece.starts_with('\n')) piece.remove_prefix(1);
        WEIGHTCAST_CHECK(end_line(take));
    }
    return success();
}

Result<void> EventStreamParser::end_line(const std::function<void(const StreamEvent&)>& take) {
    std::string_view line = line_;
    if (std::exchange(first_, false) && line.starts_with(kByteOrderMark)) {
        line.remove_prefix(kByteOrderMark.size());
    }
    if (!line.empty()) {
        const auto colon = line.find(':');
        std::string_view value;
        if (colon != std::string_view::npos) value = line.substr(colon + 1);
        if (value.starts_with(' ')) value.remove_prefix(1);
        WEIGHTCAST_CHECK(set_field(line.substr(0, colon), value));
    } else {
        if (lines_ > 0) take(event_);
        event_.name = "message";
        event_.data.clear();
        lines_ = 0;
    }
    line_.clear();
    return success();
}

// A comment is a field without a name; the field `retry` is for those that have no back-off.
Result<void> EventStreamParser::set_field(std::string_view field, std::string_view value) {
    if (field == "event") {
        event_.name = value.empty() ? "message" : value;
    } else if (field == "data") {
        if (lines_++ > 0) event_.data += '\n';
        event_.data += value;
    } else if (field == "id" && value.find('\0') == std::string_view::npos) {
        event_.id = value;
    }
    if (event_.name.size() + event_.data.size() + event_.id.size() <= kEventBytesMax) {
        return success();
    }
    over_limit_ = fmt::format("an event of the stream is larger than {} bytes", kEventBytesMax);
    return invalid_input(over_limit_);
}

}  // namespace weightcast::registry
