#include "registry/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "base/hex.h"
#include "registry/json_http_fields.h"

namespace weightcast::registry {
namespace {

namespace json = boost::json;

constexpr std::size_t kDepthMax = 16;
constexpr std::array<std::pair<ReportKind, std::string_view>, 3> kReportKinds{
    {{ReportKind::corrupt, "corrupt"},
     {ReportKind::unreachable, "unreachable"},
     {ReportKind::source_changed, "source_changed"}}};

class Writer {
  public:
    template <typename T>
    void operator()(std::string_view name, const T& field) {
        if (text_.back() != '{') text_ += ',';
        text_ += '"';
        text_ += name;
        text_ += "\":";
        value(field);
    }
    template <typename T>
    void optional(std::string_view name, const T& field) {
        if constexpr (requires { field.empty(); }) {
            if (!field.empty()) (*this)(name, field);
        } else {
            optional(name, field, T{});
        }
    }
    template <typename T>
    void optional(std::string_view name, const T& field, const std::type_identity_t<T>& otherwise) {
        if (field != otherwise) (*this)(name, field);
    }
    template <typename T>
    void optional(std::string_view name, const std::optional<T>& field) {
        if (field) (*this)(name, *field);
    }

    template <typename M>
    void value(const M& message) {
        text_ += '{';
        fields::visit(*this, message);
        text_ += '}';
    }
    void value(bool flag) { text_ += flag ? "true" : "false"; }
    void value(std::uint32_t number) { value(std::uint64_t{number}); }
    void value(std::uint64_t number) {
        const fmt::format_int digits(number);
        text_.append(digits.data(), digits.size());
    }
    void value(double number) {
        // Adding zero makes -0 a 0, which an integer can hold.
        text_ += std::isfinite(number) ? fmt::format("{}", number + 0.0) : std::string("0");
    }
    void value(const std::string& text) {
        text_ += '"';
        for (const char c : text) character(c);
        text_ += '"';
    }
    void value(ReportKind kind) {
        value(std::string(kReportKinds[static_cast<std::size_t>(kind)].second));
    }
    void value(const std::vector<std::byte>& bytes) { hex(bytes); }
    void value(const Incarnation& bytes) { hex(bytes); }
    void value(const model::Sha256& digest) { hex(digest.bytes); }
    void value(const model::Digest& digest) { hex(digest.bytes); }
    template <typename T>
    void value(const std::vector<T>& list) {
        text_ += '[';
        for (const T& entry : list) {
            if (&entry != list.data()) text_ += ',';
            value(entry);
        }
        text_ += ']';
    }
    template <typename T>
    void value(const std::map<std::string, T>& map) {
        text_ += '{';
        for (const auto& [key, entry] : map) {
            if (text_.back() != '{') text_ += ',';
            value(key);
            text_ += ':';
            value(entry);
        }
        text_ += '}';
    }

    std::string take() { return std::move(text_); }

  private:
    void hex(std::span<const std::byte> bytes) {
        text_ += '"';
        text_ += to_hex(bytes);
        text_ += '"';
    }
    void character(char c) {
        if (c == '"' || c == '\\') {
            text_ += '\\';
            text_ += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            text_ += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
            text_ += c;
        }
    }

    std::string text_;
};

// Where a value stands: its name and what it is in. Turned into text for errors only.
struct Path {
    const Path* parent = nullptr;
    std::string_view name;

    std::string text() const {
        if (parent == nullptr) return std::string(name);
        const std::string before = parent->text();
        return before.empty() || name == "[]" ? before + std::string(name)
                                              : before + "." + std::string(name);
    }
};

// Reads the fields of one object. The first error stays, with the path of its field.
class Reader {
  public:
    Reader(const json::object& object, const Path& path) : object_(object), path_(path) {}

    template <typename T>
    void operator()(std::string_view name, T& field) {
        if (!error_.empty()) return;
        const json::value* const found = object_.if_contains(name);
        if (found == nullptr) {
            error_ = fmt::format("field {} is missing", Path{&path_, name}.text());
            return;
        }
        read(*found, field, Path{&path_, name});
    }
    // A field that is not there stays as it is: of a new message, as it is by default.
    template <typename T>
    void optional(std::string_view name, T& field) {
        if (object_.contains(name)) (*this)(name, field);
    }
    template <typename T>
    void optional(std::string_view name, T& field, const std::type_identity_t<T>&) {
        optional(name, field);
    }
    template <typename T>
    void optional(std::string_view name, std::optional<T>& field) {
        const json::value* const found = object_.if_contains(name);
        if (found == nullptr || found->is_null()) return;
        (*this)(name, field.emplace());
    }

    const std::string& error() const { return error_; }

  private:
    void wrong(const Path& path, std::string_view wanted) {
        if (error_.empty()) error_ = fmt::format("field {} must be {}", path.text(), wanted);
    }

    template <typename M>
    void read(const json::value& from, M& message, const Path& path) {
        if (!from.is_object()) return wrong(path, "an object");
        Reader inner(from.get_object(), path);
        fields::visit(inner, message);
        if (error_.empty()) error_ = inner.error_;
    }
    void read(const json::value& from, bool& flag, const Path& path) {
        if (!from.is_bool()) return wrong(path, "true or false");
        flag = from.get_bool();
    }
    void read(const json::value& from, std::uint64_t& number, const Path& path) {
        if (from.is_uint64()) {
            number = from.get_uint64();
        } else if (from.is_int64() && from.get_int64() >= 0) {
            number = static_cast<std::uint64_t>(from.get_int64());
        } else {
            wrong(path, "an integer from 0 to 18446744073709551615");
        }
    }
    void read(const json::value& from, std::uint32_t& number, const Path& path) {
        std::uint64_t wide = std::numeric_limits<std::uint64_t>::max();
        read(from, wide, path);
        if (wide > std::numeric_limits<std::uint32_t>::max()) {
            error_.clear();
            return wrong(path, "an integer from 0 to 4294967295");
        }
        number = static_cast<std::uint32_t>(wide);
    }
    void read(const json::value& from, double& number, const Path& path) {
        if (!from.is_number()) return wrong(path, "a number");
        number = from.to_number<double>();
    }
    void read(const json::value& from, std::string& text, const Path& path) {
        if (!from.is_string()) return wrong(path, "a string");
        text.assign(from.get_string().data(), from.get_string().size());
    }
    void read(const json::value& from, ReportKind& kind, const Path& path) {
        for (const auto& [known, name] : kReportKinds) {
            if (!from.is_string() || std::string_view(from.get_string()) != name) continue;
            kind = known;
            return;
        }
        wrong(path, "corrupt, unreachable or source_changed");
    }
    void read(const json::value& from, std::vector<std::byte>& bytes, const Path& path) {
        auto parsed = from.is_string() ? from_hex(from.get_string()) : std::nullopt;
        if (!parsed) return wrong(path, "bytes in lower-case hexadecimal");
        bytes = std::move(*parsed);
    }
    template <std::size_t kBytes>
    void read_fixed(const json::value& from, std::array<std::byte, kBytes>& bytes,
                    const Path& path) {
        const auto parsed = from.is_string() ? from_hex(from.get_string()) : std::nullopt;
        if (!parsed || parsed->size() != kBytes) {
            return wrong(path, fmt::format("{} lower-case hexadecimal digits", 2 * kBytes));
        }
        std::copy(parsed->begin(), parsed->end(), bytes.begin());
    }
    void read(const json::value& from, Incarnation& bytes, const Path& path) {
        read_fixed(from, bytes, path);
    }
    void read(const json::value& from, model::Sha256& digest, const Path& path) {
        read_fixed(from, digest.bytes, path);
    }
    void read(const json::value& from, model::Digest& digest, const Path& path) {
        read_fixed(from, digest.bytes, path);
    }
    template <typename T>
    void read(const json::value& from, std::vector<T>& list, const Path& path) {
        if (!from.is_array()) return wrong(path, "an array");
        list.clear();
        list.reserve(from.get_array().size());
        for (const json::value& entry : from.get_array()) {
            read(entry, list.emplace_back(), Path{&path, "[]"});
            if (!error_.empty()) return;
        }
    }
    template <typename T>
    void read(const json::value& from, std::map<std::string, T>& map, const Path& path) {
        if (!from.is_object()) return wrong(path, "an object");
        map.clear();
        for (const auto& [key, entry] : from.get_object()) {
            read(entry, map[std::string(key)], Path{&path, {key.data(), key.size()}});
            if (!error_.empty()) return;
        }
    }

    const json::object& object_;
    const Path& path_;
    std::string error_;
};

// Calls `use` with the object that `text` is. Errors: invalid_input.
template <typename Use>
Result<void> with_object(std::string_view text, Use&& use) {
    std::array<unsigned char, 8192> first;
    json::monotonic_resource memory(first.data(), first.size());
    json::parse_options options;
    options.max_depth = kDepthMax;
    boost::system::error_code failure;
    const json::value root = json::parse(text, failure, &memory, options);
    if (failure) {
        return Error{Code::invalid_input, 0, fmt::format("malformed JSON: {}", failure.message())};
    }
    if (!root.is_object()) {
        return Error{Code::invalid_input, 0, "malformed JSON: the text must be one object"};
    }
    return use(root.get_object());
}

}  // namespace

std::string encode_error(const Error& error) {
    Writer message;
    message.value(error.message);
    return fmt::format(R"({{"error":{{"code":"{}","message":{}}}}})", to_string(error.code),
                       message.take());
}

Error decode_error(std::string_view text, Code fallback) {
    Error error{fallback, 0, std::string(text.substr(0, 200))};
    const auto parsed = with_object(text, [&](const json::object& root) -> Result<void> {
        const json::value* const inner = root.if_contains("error");
        if (inner == nullptr || !inner->is_object()) return success();
        const json::value* const message = inner->get_object().if_contains("message");
        const json::value* const code = inner->get_object().if_contains("code");
        if (message == nullptr || !message->is_string()) return success();
        error.message = std::string(message->get_string());
        for (int known = 0; known <= static_cast<int>(Code::cancelled); ++known) {
            const Code candidate = static_cast<Code>(known);
            if (code == nullptr || !code->is_string()) break;
            if (std::string_view(code->get_string()) == to_string(candidate)) {
                error.code = candidate;
            }
        }
        return success();
    });
    static_cast<void>(parsed);  // a text of another kind was taken over as it is
    return error;
}

template <typename Message>
std::string encode(const Message& message) {
    Writer writer;
    writer.value(message);
    return writer.take();
}

template <typename Message>
Result<Message> decode(std::string_view text) {
    Message message;
    WEIGHTCAST_CHECK(with_object(text, [&](const json::object& root) -> Result<void> {
        const Path top;
        Reader reader(root, top);
        fields::visit(reader, message);
        if (reader.error().empty()) return success();
        return Error{Code::invalid_input, 0, reader.error()};
    }));
    return message;
}

#define WEIGHTCAST_MESSAGE(Message)              \
    template std::string encode(const Message&); \
    template Result<Message> decode(std::string_view)
WEIGHTCAST_MESSAGE(BucketHolders);
WEIGHTCAST_MESSAGE(BucketQuery);
WEIGHTCAST_MESSAGE(Canary);
WEIGHTCAST_MESSAGE(ChannelInfo);
WEIGHTCAST_MESSAGE(CloseRequest);
WEIGHTCAST_MESSAGE(ClusterInfo);
WEIGHTCAST_MESSAGE(DropReply);
WEIGHTCAST_MESSAGE(DropRequest);
WEIGHTCAST_MESSAGE(Event);
WEIGHTCAST_MESSAGE(Grant);
WEIGHTCAST_MESSAGE(Heartbeat);
WEIGHTCAST_MESSAGE(HeartbeatReply);
WEIGHTCAST_MESSAGE(History);
WEIGHTCAST_MESSAGE(ModelQuery);
WEIGHTCAST_MESSAGE(HistoryQuery);
WEIGHTCAST_MESSAGE(HolderReport);
WEIGHTCAST_MESSAGE(HoldRequest);
WEIGHTCAST_MESSAGE(LeaveRequest);
WEIGHTCAST_MESSAGE(ModelInfo);
WEIGHTCAST_MESSAGE(ModelList);
WEIGHTCAST_MESSAGE(Nothing);
WEIGHTCAST_MESSAGE(PeerInfo);
WEIGHTCAST_MESSAGE(PeerLease);
WEIGHTCAST_MESSAGE(PeerList);
WEIGHTCAST_MESSAGE(PublishReply);
WEIGHTCAST_MESSAGE(PublishRequest);
WEIGHTCAST_MESSAGE(PullRequest);
WEIGHTCAST_MESSAGE(RenewRequest);
WEIGHTCAST_MESSAGE(SetChannelRequest);
#undef WEIGHTCAST_MESSAGE

}  // namespace weightcast::registry
