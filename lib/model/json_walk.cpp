#include "model/json_walk.h"

#include <boost/json/basic_parser_impl.hpp>
#include <limits>
#include <new>

namespace weightcast::model {
namespace {

namespace json = boost::json;

// What boost::json::basic_parser calls: joins the parts of keys and strings for the sink.
struct Handler {
    static constexpr std::size_t max_object_size = std::numeric_limits<std::size_t>::max();
    static constexpr std::size_t max_array_size = std::numeric_limits<std::size_t>::max();
    static constexpr std::size_t max_key_size = std::numeric_limits<std::size_t>::max();
    static constexpr std::size_t max_string_size = std::numeric_limits<std::size_t>::max();

    JsonSink* sink = nullptr;
    std::size_t key_bytes_max = 0;
    std::string parts;

    static bool accept(bool accepted, json::error_code& ec) {
        if (!accepted) ec = json::error::exception;
        return accepted;
    }
    bool join_key(json::string_view part, std::size_t total, json::error_code& ec) {
        if (total > key_bytes_max) {
            sink->problem = "name '" + printable({part.data(), part.size()}) + "' has more than " +
                            std::to_string(key_bytes_max) + " bytes (name_bytes_max)";
            return accept(false, ec);
        }
        return true;
    }
    template <typename Deliver>
    bool deliver(json::string_view last, json::error_code& ec, Deliver call) {
        const std::string_view view(last.data(), last.size());
        if (parts.empty()) return accept(call(view), ec);
        parts.append(view);
        const bool accepted = call(std::string_view(parts));
        parts.clear();
        return accept(accepted, ec);
    }

    bool on_document_begin(json::error_code&) { return true; }
    bool on_document_end(json::error_code&) { return true; }
    bool on_object_begin(json::error_code& ec) { return accept(sink->begin_object(), ec); }
    bool on_object_end(std::size_t, json::error_code& ec) { return accept(sink->end_object(), ec); }
    bool on_array_begin(json::error_code& ec) { return accept(sink->begin_array(), ec); }
    bool on_array_end(std::size_t, json::error_code& ec) { return accept(sink->end_array(), ec); }
    bool on_key_part(json::string_view part, std::size_t total, json::error_code& ec) {
        if (!join_key(part, total, ec)) return false;
        parts.append(part.data(), part.size());
        return true;
    }
    bool on_key(json::string_view part, std::size_t total, json::error_code& ec) {
        if (!join_key(part, total, ec)) return false;
        return deliver(part, ec, [this](std::string_view key) { return sink->key(key); });
    }
    bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
        parts.append(part.data(), part.size());
        return true;
    }
    bool on_string(json::string_view part, std::size_t, json::error_code& ec) {
        return deliver(part, ec, [this](std::string_view value) { return sink->string(value); });
    }
    bool on_number_part(json::string_view, json::error_code&) { return true; }
    bool on_int64(std::int64_t value, json::string_view, json::error_code& ec) {
        if (value >= 0) return accept(sink->number(static_cast<std::uint64_t>(value)), ec);
        return accept(sink->other(JsonOther::negative, static_cast<double>(value)), ec);
    }
    bool on_uint64(std::uint64_t value, json::string_view, json::error_code& ec) {
        return accept(sink->number(value), ec);
    }
    bool on_double(double value, json::string_view, json::error_code& ec) {
        return accept(sink->other(JsonOther::fraction, value), ec);
    }
    bool on_bool(bool value, json::error_code& ec) {
        return accept(sink->other(JsonOther::boolean, value ? 1 : 0), ec);
    }
    bool on_null(json::error_code& ec) { return accept(sink->other(JsonOther::null, 0), ec); }
    bool on_comment_part(json::string_view, json::error_code&) { return true; }
    bool on_comment(json::string_view, json::error_code&) { return true; }
};

}  // namespace

Result<void> walk_json(std::string_view text, const JsonLimits& limits, JsonSink& sink) {
    json::parse_options options;
    options.max_depth = limits.depth_max;
    json::basic_parser<Handler> parser(options);
    parser.handler().sink = &sink;
    parser.handler().key_bytes_max = limits.key_bytes_max;
    json::error_code ec;
    std::size_t consumed = 0;
    try {
        consumed = parser.write_some(false, text.data(), text.size(), ec);
    } catch (const std::bad_alloc&) {
        return Error{Code::no_space, 0, "no memory to parse a JSON text"};
    }
    if (!sink.problem.empty()) return Error{Code::invalid_input, 0, sink.problem};
    if (ec == json::error::too_deep) {
        return Error{Code::invalid_input, 0,
                     "the JSON text is nested deeper than " + std::to_string(limits.depth_max) +
                         " (depth_max)"};
    }
    if (ec) {
        return Error{Code::invalid_input, 0, "the JSON text is malformed: " + ec.message()};
    }
    if (consumed != text.size()) {
        return Error{Code::invalid_input, 0,
                     "the JSON text goes on after its value, at byte " + std::to_string(consumed)};
    }
    return success();
}

std::string printable(std::string_view text) {
    constexpr std::size_t kShownBytes = 120;
    std::string shown(text.substr(0, kShownBytes));
    for (char& c : shown) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    }
    if (text.size() > kShownBytes) shown += "...";
    return shown;
}

}  // namespace weightcast::model
