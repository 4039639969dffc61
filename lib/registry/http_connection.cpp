#include "registry/http_connection.h"

#include <fmt/core.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <cerrno>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "registry/content_coding.h"

namespace weightcast::registry {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr auto kAwaitTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kAnswerHeadBytesMax = 16384;
constexpr std::size_t kPieceBytes = 16384;

using BeastRequest = http::request<http::string_body>;

BeastRequest make_request(const HttpAddress& address, const HttpRequest& asked,
                          std::string_view codings) {
    BeastRequest request;
    request.version(11);
    request.method_string({asked.method.data(), asked.method.size()});
    request.target({asked.target.data(), asked.target.size()});
    request.set(http::field::host, address.host + ":" + address.port);
    request.set(http::field::content_type, "application/json");
    if (!address.token.empty()) {
        request.set(http::field::authorization, "Bearer " + address.token);
    }
    if (!codings.empty()) {
        request.set(http::field::accept_encoding, {codings.data(), codings.size()});
    }
    request.body() = asked.body;
    request.prepare_payload();
    return request;
}

template <typename Message>
void take_head(const Message& message, HttpAnswer& answer) {
    answer.status = message.result_int();
    const auto type = message[http::field::content_type];
    answer.content_type.assign(type.data(), type.size());
}

}  // namespace

Result<HttpAddress> parse_http_address(const std::string& url, const std::string& token) {
    const auto bad = [&url](std::string_view why) {
        return invalid_input(fmt::format("registry URL {} {}", url, why));
    };
    const auto parsed = boost::urls::parse_uri(url);
    if (!parsed) return bad("is malformed: " + parsed.error().message());
    const boost::urls::url_view parts = parsed.value();
    if (parts.scheme() != "http") return bad("must begin with http://");
    if (parts.host_address().empty() || !parts.has_port() || parts.port_number() == 0) {
        return bad("must name a host and a port from 1 to 65535");
    }
    const bool path = !parts.encoded_path().empty() && parts.encoded_path() != "/";
    if (path || parts.has_query() || parts.has_fragment() || parts.has_userinfo()) {
        return bad("must have nothing after the port");
    }
    return HttpAddress{url, parts.host_address(), std::to_string(parts.port_number()), token};
}

bool HttpFailure::timed_out() const {
    return code == beast::error::timeout || code == asio::error::timed_out;
}

Error explain(const HttpAddress& address, std::string_view target, const HttpFailure& failure,
              std::uint32_t ms_max) {
    const bool late = failure.timed_out();
    return {
        late ? Code::timed_out : Code::unavailable, 0,
        fmt::format("registry {}{}: {}: {}", address.url, target, failure.step,
                    late ? fmt::format("no answer within {} ms", ms_max) : failure.code.message())};
}

struct HttpConnection::Implementation {
    Implementation(asio::io_context& runs, HttpAddress to) : context(runs), address(std::move(to)) {
        // Beast receives into what is reserved, or in pieces of 512 bytes.
        buffer.reserve(buffer.max_size());
    }

    // Gives the failure of receiving the head, or of sending. A server that refuses a request
    // early may answer before it has read all: so its answer is read even if sending failed.
    template <typename Receive>
    asio::awaitable<HttpFailure> send(const HttpRequest& asked, std::string_view codings,
                                      TimePoint deadline, Receive&& receive) {
        WEIGHTCAST_ASSERT(stream.has_value());
        const BeastRequest request = make_request(address, asked, codings);
        stream->expires_at(deadline);
        const auto [sent, sent_bytes] = co_await http::async_write(*stream, request, kAwaitTuple);
        const bool closed =
            sent == asio::error::broken_pipe || sent == asio::error::connection_reset;
        HttpFailure failure{sent, "send"};
        if (!sent || closed) {
            const auto [received, received_bytes] = co_await receive();
            static_cast<void>(received_bytes);
            if (!received) failure.code = {};
            if (!sent) failure = {received, "receive"};
        }
        again = !failure && !sent;
        if (failure) stream.reset();
        co_return failure;
    }

    asio::io_context& context;
    const HttpAddress address;
    std::optional<beast::tcp_stream> stream;
    bool looking_up = false;
    bool again = false;  // nothing speaks against another request
    beast::flat_buffer buffer{kAnswerHeadBytesMax + 65536};
    std::optional<http::response_parser<http::buffer_body>> parser;  // of what begin() began
    std::array<char, kPieceBytes> piece{};
    Decompressor decompressor;
};

HttpConnection::HttpConnection(asio::io_context& context, HttpAddress address)
    : implementation_(std::make_unique<Implementation>(context, std::move(address))) {}

HttpConnection::~HttpConnection() = default;

asio::awaitable<HttpFailure> HttpConnection::open(TimePoint deadline) {
    Implementation& own = *implementation_;
    tcp::resolver::results_type found;
    boost::system::error_code numeric;
    const auto ip = asio::ip::make_address(own.address.host, numeric);
    if (!numeric) {
        const auto port = static_cast<std::uint16_t>(std::stoul(own.address.port));
        found = tcp::resolver::results_type::create(tcp::endpoint(ip, port), own.address.host,
                                                    own.address.port);
    } else {
        tcp::resolver resolver(own.context);
        own.looking_up = true;
        auto [failed, results] =
            co_await resolver.async_resolve(own.address.host, own.address.port, kAwaitTuple);
        own.looking_up = false;
        if (failed) co_return HttpFailure{failed, "resolve"};
        found = std::move(results);
    }
    own.stream.emplace(own.context);
    own.stream->expires_at(deadline);
    const auto [failed, endpoint] = co_await own.stream->async_connect(found, kAwaitTuple);
    if (failed) {
        own.stream.reset();
        co_return HttpFailure{failed, "connect"};
    }
    boost::system::error_code ignored;
    own.stream->socket().set_option(tcp::no_delay(true), ignored);
    co_return HttpFailure{};
}

asio::awaitable<HttpFailure> HttpConnection::exchange(const HttpRequest& request,
                                                      std::uint64_t body_bytes_max,
                                                      TimePoint deadline, HttpAnswer& answer) {
    Implementation& own = *implementation_;
    http::response_parser<http::string_body> parser;
    parser.header_limit(kAnswerHeadBytesMax);
    parser.body_limit(body_bytes_max);
    const auto receive = [&own, &parser] {
        return http::async_read(*own.stream, own.buffer, parser, kAwaitTuple);
    };
    const HttpFailure failure = co_await own.send(request, kZstdCoding, deadline, receive);
    if (failure) co_return failure;
    own.again = own.again && parser.keep_alive();
    take_head(parser.get(), answer);
    answer.body = std::move(parser.get().body());
    const auto coding = parser.get()[http::field::content_encoding];
    if (std::string_view(coding.data(), coding.size()) == kZstdCoding &&
        !decompress_body(own.decompressor, answer.body, body_bytes_max)) {
        own.again = false;
        co_return HttpFailure{asio::error::invalid_argument, "decompress"};
    }
    co_return failure;
}

asio::awaitable<HttpFailure> HttpConnection::begin(const HttpRequest& request, TimePoint deadline,
                                                   HttpAnswer& head) {
    Implementation& own = *implementation_;
    own.parser.emplace();
    own.parser->header_limit(kAnswerHeadBytesMax);
    own.parser->body_limit(boost::none);
    const auto receive = [&own] {
        return http::async_read_header(*own.stream, own.buffer, *own.parser, kAwaitTuple);
    };
    const HttpFailure failure = co_await own.send(request, {}, deadline, receive);
    own.again = false;
    if (!failure) take_head(own.parser->get(), head);
    co_return failure;
}

asio::awaitable<HttpFailure> HttpConnection::read_some(TimePoint deadline,
                                                       std::string_view& piece) {
    Implementation& own = *implementation_;
    WEIGHTCAST_ASSERT(own.stream.has_value() && own.parser.has_value());
    piece = {};
    own.stream->expires_at(deadline);
    while (piece.empty() && !own.parser->is_done()) {
        auto& body = own.parser->get().body();
        body.data = own.piece.data();
        body.size = own.piece.size();
        const auto [failed, read_bytes] =
            co_await http::async_read_some(*own.stream, own.buffer, *own.parser, kAwaitTuple);
        piece = {own.piece.data(), own.piece.size() - body.size};
        if (piece.empty() && failed && failed != http::error::need_buffer) {
            own.stream.reset();
            co_return HttpFailure{failed, "receive"};
        }
    }
    co_return HttpFailure{};
}

bool HttpConnection::looking_up() const { return implementation_->looking_up; }

bool HttpConnection::reusable() const {
    Implementation& own = *implementation_;
    if (!own.again || !own.stream || own.buffer.size() > 0) return false;
    char byte = 0;
    const ssize_t got =
        ::recv(own.stream->socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

void HttpConnection::close() {
    if (implementation_->stream) implementation_->stream->close();
}

}  // namespace weightcast::registry
