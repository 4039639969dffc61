// The bytes of a text/event-stream as events, in whatever pieces they arrive (WHATWG HTML,
// "Server-sent events"). Pure; trusts nothing that it reads. Thread-bound.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "weightcast/result.h"

namespace weightcast::registry {

struct StreamEvent {
    std::string name = "message";
    std::string data;  // lines are separated by \n
    std::string id;    // of this event, or of the last one before it that had any
};

class EventStreamParser {
  public:
    static constexpr std::size_t kLineBytesMax = 65536;   // comments too
    static constexpr std::size_t kEventBytesMax = 65536;  // name, data and id together

    // Calls `take` with each event that is now complete, which is borrowed for the call. The same
    // events come, however the bytes are cut into pieces.
    // Errors: invalid_input (a limit, by name); so does every later call fail.
    Result<void> push(std::string_view piece, const std::function<void(const StreamEvent&)>& take);

  private:
    Result<void> end_line(const std::function<void(const StreamEvent&)>& take);
    Result<void> set_field(std::string_view field, std::string_view value);

    std::string line_;  // without its end
    StreamEvent event_;
    std::size_t lines_ = 0;   // of data, in event_
    bool first_ = true;       // no line ended yet: a byte order mark may stand here
    bool after_cr_ = false;   // a line feed that comes next belongs to the line before
    std::string over_limit_;  // which; empty: none
};

}  // namespace weightcast::registry
