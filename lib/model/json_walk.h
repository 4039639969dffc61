// Events of a JSON text from outside, without building a tree: what a tree would merge silently
// (duplicate keys) is seen, and memory is what the receiver of the events keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "weightcast/result.h"

namespace weightcast::model {

enum class JsonOther { null, boolean, negative, fraction };

// Gets the events in order. A method that returns false ends the walk; it sets `problem` before.
// Views are borrowed for the call.
class JsonSink {
  public:
    virtual ~JsonSink() = default;
    virtual bool begin_object() = 0;
    virtual bool end_object() = 0;
    virtual bool begin_array() = 0;
    virtual bool end_array() = 0;
    virtual bool key(std::string_view key) = 0;
    virtual bool string(std::string_view value) = 0;
    virtual bool number(std::uint64_t value) = 0;
    // A negative or broken number (its value does not fit 64 bits or is a fraction), true, false
    // or null.
    virtual bool other(JsonOther kind, double value) = 0;

    std::string problem;  // what is wrong, as a sentence without a full stop
};

struct JsonLimits {
    std::size_t depth_max = 8;
    std::size_t key_bytes_max = 4096;
};

// Walks `text`, which must be one JSON value in valid UTF-8 and nothing but white space after it.
// Errors: invalid_input (malformed, over a limit, or what the sink says). Reentrant.
Result<void> walk_json(std::string_view text, const JsonLimits& limits, JsonSink& sink);

// Foreign text for messages: shortened, and without control characters.
std::string printable(std::string_view text);

}  // namespace weightcast::model
