// One thread, one io_context, one coroutine per connection. The deadline of a request runs from
// its first byte over head and body together, so that a client that trickles is dropped.
#include <fmt/core.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <exception>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "base/hex.h"
#include "base/log.h"
#include "base/random.h"
#include "registry/content_coding.h"
#include "registry/json.h"
#include "registry/peer_connections.h"
#include "registry/router.h"
#include "registry/server.h"
#include "registry/service.h"
#include "registry/waiters.h"

namespace weightcast::registry {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kReadBytes = 4096;
constexpr std::size_t kLingerBytesMax = 1U << 20U;  // read and thrown away after an error
constexpr std::chrono::milliseconds kLinger{1000};
constexpr std::size_t kEventsPerWrite = 256;
constexpr std::size_t kSubscribersMax = 1024;

bool same_secret(std::string_view a, std::string_view b) {
    const auto bytes = [](std::string_view text) {
        return std::as_bytes(std::span(text.data(), text.size()));
    };
    const model::Sha256 left = model::sha256(bytes(a));
    const model::Sha256 right = model::sha256(bytes(b));
    std::byte different{};
    for (std::size_t i = 0; i < left.bytes.size(); ++i) {
        different |= left.bytes[i] ^ right.bytes[i];
    }
    return different == std::byte{};
}

// The reply to a request that could not be read, or status 0 if the client is gone or too slow.
Reply read_failure(const boost::system::error_code& failure, const ServerOptions& options) {
    const auto refuse = [](int status, std::string message) {
        Reply reply = error_reply({Code::invalid_input, 0, std::move(message)});
        reply.status = status;
        return reply;
    };
    if (failure == http::error::header_limit || failure == http::error::buffer_overflow) {
        return refuse(431, fmt::format("the head is larger than head_bytes_max, {} bytes",
                                       options.head_bytes_max));
    }
    if (failure == http::error::body_limit) {
        return refuse(413, fmt::format("the body is larger than body_bytes_max, {} bytes",
                                       options.body_bytes_max));
    }
    const bool http_failure =
        failure.category() == http::make_error_code(http::error::bad_method).category();
    if (!http_failure || failure == http::error::end_of_stream ||
        failure == http::error::partial_message) {
        return {0, "none", {}, {}, 0};
    }
    return refuse(400, fmt::format("malformed HTTP: {}", failure.message()));
}

std::string event_text(const Event& event) {
    return fmt::format("id: {}\nevent: {}\ndata: {}\n\n", event.sequence, to_string(event.kind),
                       encode(event));
}

Result<tcp::endpoint> parse_listen(asio::io_context& context, const std::string& listen) {
    const auto colon = listen.rfind(':');
    if (colon == std::string::npos || colon == 0) {
        return Error{Code::invalid_input, 0, fmt::format("listen {} is not HOST:PORT", listen)};
    }
    std::string host = listen.substr(0, colon);
    if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    std::uint16_t port = 0;
    const char* const end = listen.data() + listen.size();
    const auto parsed = std::from_chars(listen.data() + colon + 1, end, port);
    if (parsed.ec != std::errc{} || parsed.ptr != end || host.empty()) {
        return Error{Code::invalid_input, 0, fmt::format("listen {} is not HOST:PORT", listen)};
    }
    boost::system::error_code failure;
    const auto address = asio::ip::make_address(host, failure);
    if (!failure) return tcp::endpoint(address, port);
    const auto found = tcp::resolver(context).resolve(host, "", failure);
    if (failure || found.empty()) {
        return Error{Code::invalid_input, 0,
                     fmt::format("listen host {}: {}", host, failure.message())};
    }
    return tcp::endpoint(found.begin()->endpoint().address(), port);
}

std::string url_of(const tcp::endpoint& endpoint) {
    const std::string host = endpoint.address().to_string();
    return endpoint.address().is_v6() ? fmt::format("http://[{}]:{}", host, endpoint.port())
                                      : fmt::format("http://{}:{}", host, endpoint.port());
}

}  // namespace

struct Server::Implementation {
    explicit Implementation(const ServerOptions& server_options) : options(server_options) {}
    ~Implementation() {
        context.stop();
        if (thread.joinable()) thread.join();
    }

    Result<void> open_service();
    Result<void> bind();
    void serve();

    asio::awaitable<void> accept();
    asio::awaitable<void> tick();
    asio::awaitable<void> session(tcp::socket socket, asio::ip::address address);
    asio::awaitable<bool> answer(beast::tcp_stream& stream, beast::flat_buffer& buffer,
                                 PeerConnections::Caller& caller);
    asio::awaitable<void> send(beast::tcp_stream& stream, Reply reply, bool keep_alive,
                               TimePoint start, bool zstd = false);
    asio::awaitable<void> refuse(beast::tcp_stream& stream, Reply reply);
    asio::awaitable<void> stream_events(beast::tcp_stream& stream, std::uint64_t sequence);
    bool admit(tcp::socket& socket, const asio::ip::address& address);
    bool authorized(const http::request<http::string_body>& request) const;
    void wake_waiters();

    // The frames of coroutines refer to all of these, and go with `context`: it is declared last.
    const ServerOptions options;
    Metrics metrics;
    std::unique_ptr<Service> service;
    std::unique_ptr<Router> router;
    Compressor compressor;
    std::map<asio::ip::address, std::uint32_t> connections_by_host;
    PeerConnections connections_by_peer;
    Waiters for_event;
    std::uint64_t announced = 0;  // the last event that those were woken for
    Waiters for_plan;
    std::uint64_t planned = 0;  // the number of plans that those were woken for
    std::string url;
    asio::io_context context{1};
    tcp::acceptor acceptor{context};
    std::thread thread;
};

Result<void> Server::Implementation::open_service() {
    std::unique_ptr<Store> store;
    if (options.store_directory.empty()) {
        store = make_memory_store();
    } else {
        WEIGHTCAST_TRY(store, open_sqlite_store({.directory = options.store_directory}));
    }
    StateOptions state_options;
    state_options.placement = options.placement;
    state_options.lease_ms = options.lease_ms;
    state_options.versions_kept = options.versions_kept;
    state_options.grace_ms = options.grace_ms;
    WEIGHTCAST_TRY(service, Service::create(state_options, std::move(store), system_clock(),
                                            to_hex(random_identity()), random_seed()));
    router = std::make_unique<Router>(*service, metrics);
    announced = service->events().last();
    return success();
}

Result<void> Server::Implementation::bind() {
    WEIGHTCAST_TRY(const tcp::endpoint endpoint, parse_listen(context, options.listen));
    boost::system::error_code failure;
    const auto step = [&failure](auto&& action) {
        if (!failure) action();
    };
    step([&] { acceptor.open(endpoint.protocol(), failure); });
    step([&] { acceptor.set_option(tcp::acceptor::reuse_address(true), failure); });
    step([&] { acceptor.bind(endpoint, failure); });
    step([&] { acceptor.listen(asio::socket_base::max_listen_connections, failure); });
    tcp::endpoint bound;
    step([&] { bound = acceptor.local_endpoint(failure); });
    if (failure) return system_error(Code::io, failure.value(), "listen on " + options.listen);
    url = url_of(bound);
    if (!bound.address().is_loopback() && options.token.empty()) {
        log(LogLevel::warning,
            "the registry listens on {} WITHOUT A TOKEN: whoever reaches it can publish weights",
            url);
    }
    return success();
}

void Server::Implementation::serve() {
    asio::co_spawn(context, accept(), asio::detached);
    asio::co_spawn(context, tick(), asio::detached);
    thread = std::thread([this] { context.run(); });
}

asio::awaitable<void> Server::Implementation::accept() {
    asio::steady_timer pause(context);
    for (;;) {
        auto [failure, socket] = co_await acceptor.async_accept(kToken);
        if (failure) {
            log(LogLevel::warning, "the registry cannot accept a connection: {}",
                failure.message());
            pause.expires_after(std::chrono::milliseconds(100));
            co_await pause.async_wait(kToken);
            continue;
        }
        boost::system::error_code ignored;
        const auto address = socket.remote_endpoint(ignored).address();
        socket.set_option(tcp::no_delay(true), ignored);
        if (!admit(socket, address)) continue;
        asio::co_spawn(
            context, session(std::move(socket), address), [](const std::exception_ptr& broken) {
                if (!broken) return;
                try {
                    std::rethrow_exception(broken);
                } catch (const std::exception& failed) {
                    log(LogLevel::warning, "a registry connection failed: {}", failed.what());
                }
            });
    }
}

// Counts the connection in, or tells the client which limit it hit.
bool Server::Implementation::admit(tcp::socket& socket, const asio::ip::address& address) {
    const auto of_host = connections_by_host.find(address);
    const std::uint32_t count = of_host == connections_by_host.end() ? 0 : of_host->second;
    const bool host_full = count >= options.connections_per_host_max;
    if (metrics.connections < options.connections_max && !host_full) {
        ++metrics.connections;
        ++connections_by_host[address];
        return true;
    }
    ++metrics.connections_refused;
    const std::string body = encode_error(
        {Code::unavailable, 0,
         host_full ? fmt::format("connections_per_host_max, {}, is reached",
                                 options.connections_per_host_max)
                   : fmt::format("connections_max, {}, is reached", options.connections_max)});
    const std::string text = fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        "Connection: close\r\nRetry-After: 1\r\nContent-Length: {}\r\n\r\n{}",
        body.size(), body);
    boost::system::error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(text), ignored);
    socket.shutdown(tcp::socket::shutdown_send, ignored);
    metrics.observe("none", 503, 0);
    return false;
}

asio::awaitable<void> Server::Implementation::tick() {
    const std::chrono::milliseconds period(std::max<std::uint32_t>(options.lease_ms / 20, 10));
    asio::steady_timer timer(context);
    for (;;) {
        timer.expires_after(period);
        co_await timer.async_wait(kToken);
        const Duration late = std::chrono::steady_clock::now() - timer.expiry();
        if (late > std::chrono::milliseconds(options.grace_ms) / 2) ++metrics.late_ticks;
        service->tick(late);
        wake_waiters();
    }
}

void Server::Implementation::wake_waiters() {
    const auto wake_if_new = [](std::uint64_t& known, std::uint64_t latest, Waiters& waiters) {
        if (std::exchange(known, latest) != latest) waiters.wake();
    };
    wake_if_new(announced, service->events().last(), for_event);
    wake_if_new(planned, service->counts().plans, for_plan);
}

bool Server::Implementation::authorized(const http::request<http::string_body>& request) const {
    if (options.token.empty()) return true;
    constexpr std::string_view kScheme = "Bearer ";
    const auto given = request[http::field::authorization];
    const std::string_view text(given.data(), given.size());
    return text.starts_with(kScheme) && same_secret(text.substr(kScheme.size()), options.token);
}

asio::awaitable<void> Server::Implementation::session(tcp::socket socket,
                                                      asio::ip::address address) {
    struct Leave {
        Implementation& server;
        const asio::ip::address& address;
        PeerConnections::Caller caller;
        ~Leave() {
            const std::uint64_t peer = server.connections_by_peer.ended(caller);
            if (peer != 0) server.service->disconnected(peer);
            --server.metrics.connections;
            const auto of_host = server.connections_by_host.find(address);
            if (--of_host->second == 0) server.connections_by_host.erase(of_host);
        }
    } leave{*this, address};
    beast::tcp_stream stream(std::move(socket));
    beast::flat_buffer buffer(options.head_bytes_max + kReadBytes);
    for (bool keep = true; keep;) {
        if (buffer.size() == 0) {
            stream.expires_after(std::chrono::milliseconds(options.idle_ms_max));
            const auto [failure, bytes] =
                co_await stream.async_read_some(buffer.prepare(kReadBytes), kToken);
            if (failure) co_return;
            buffer.commit(bytes);
        }
        keep = co_await answer(stream, buffer, leave.caller);
    }
}

// Reads one request and answers it. Gives whether another may follow on this connection.
asio::awaitable<bool> Server::Implementation::answer(beast::tcp_stream& stream,
                                                     beast::flat_buffer& buffer,
                                                     PeerConnections::Caller& caller) {
    stream.expires_after(std::chrono::milliseconds(options.request_ms_max));
    const TimePoint start = system_clock().now();
    http::request_parser<http::string_body> parser;
    parser.header_limit(options.head_bytes_max);
    parser.body_limit(options.body_bytes_max);
    auto [failure, head_bytes] = co_await http::async_read_header(stream, buffer, parser, kToken);
    if (!failure && !authorized(parser.get())) {
        Reply reply = error_reply({Code::refused, 0,
                                   "the request carries no bearer token, or another one than this "
                                   "registry's"});
        reply.status = 401;
        co_await refuse(stream, std::move(reply));
        co_return false;
    }
    if (!failure && parser.get().method() == http::verb::get &&
        parser.get().target() == "/v1/events") {
        const auto resume = parser.get()["Last-Event-ID"];
        std::uint64_t sequence = service->events().last();
        if (!resume.empty()) {
            sequence = ~std::uint64_t{};
            std::from_chars(resume.data(), resume.data() + resume.size(), sequence);
        }
        co_await stream_events(stream, sequence);
        co_return false;
    }
    if (!failure && http::token_list(parser.get()[http::field::expect]).exists("100-continue")) {
        static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        std::tie(failure, head_bytes) = co_await asio::async_write(
            stream, asio::buffer(kContinue.data(), kContinue.size()), kToken);
    }
    if (!failure) {
        std::tie(failure, head_bytes) = co_await http::async_read(stream, buffer, parser, kToken);
    }
    if (failure) {
        Reply reply = read_failure(failure, options);
        if (failure == beast::error::timeout) metrics.observe("none", 408, 0);
        if (reply.status != 0) co_await refuse(stream, std::move(reply));
        co_return false;
    }
    const http::request<http::string_body> request = parser.release();
    const auto method = request.method_string();
    const auto target = request.target();
    Reply reply;
    for (;;) {
        reply = router->handle({method.data(), method.size()}, {target.data(), target.size()},
                               request.body());
        if (reply.peer != 0) connections_by_peer.called(caller, reply.peer);
        wake_waiters();
        if (reply.later_ms == 0) break;
        co_await for_plan.wait(std::chrono::milliseconds(reply.later_ms));
    }
    const bool keep_alive = request.keep_alive();
    const auto codings = request[http::field::accept_encoding];
    co_await send(stream, std::move(reply), keep_alive, start,
                  takes_zstd({codings.data(), codings.size()}));
    co_return stream.socket().is_open() && keep_alive;
}

asio::awaitable<void> Server::Implementation::send(beast::tcp_stream& stream, Reply reply,
                                                   bool keep_alive, TimePoint start, bool zstd) {
    http::response<http::string_body> response;
    response.result(static_cast<unsigned>(reply.status));
    response.set(http::field::content_type,
                 beast::string_view(reply.content_type.data(), reply.content_type.size()));
    if (reply.status == 401) response.set(http::field::www_authenticate, "Bearer");
    if (reply.status == 503) response.set(http::field::retry_after, "1");
    response.keep_alive(keep_alive);
    // Manifests are digests, which do not shrink.
    const bool text = reply.content_type == kJsonType;
    if (zstd && text && compress_body(compressor, reply.body)) {
        response.set(http::field::content_encoding,
                     beast::string_view(kZstdCoding.data(), kZstdCoding.size()));
    }
    response.body() = std::move(reply.body);
    response.prepare_payload();
    stream.expires_after(std::chrono::milliseconds(options.request_ms_max));
    const auto [failure, bytes] = co_await http::async_write(stream, response, kToken);
    if (failure) stream.close();
    metrics.observe(reply.route, reply.status, seconds(system_clock().now() - start));
}

// Sends an error and closes, but reads on for a moment: closing with unread bytes would reset the
// connection, and the client might never see the error.
asio::awaitable<void> Server::Implementation::refuse(beast::tcp_stream& stream, Reply reply) {
    co_await send(stream, std::move(reply), false, system_clock().now());
    boost::system::error_code ignored;
    stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream.expires_after(kLinger);
    std::array<char, kReadBytes> thrown_away{};
    for (std::size_t total = 0; total < kLingerBytesMax;) {
        const auto [failure, bytes] =
            co_await stream.async_read_some(asio::buffer(thrown_away), kToken);
        if (failure) break;
        total += bytes;
    }
}

asio::awaitable<void> Server::Implementation::stream_events(beast::tcp_stream& stream,
                                                            std::uint64_t sequence) {
    if (metrics.event_subscribers >= kSubscribersMax) {
        Reply reply =
            error_reply({Code::unavailable, 0,
                         fmt::format("the limit of {} event streams is reached", kSubscribersMax)});
        co_await refuse(stream, std::move(reply));
        co_return;
    }
    struct Subscription {
        Metrics& metrics;
        explicit Subscription(Metrics& of) : metrics(of) { ++metrics.event_subscribers; }
        ~Subscription() { --metrics.event_subscribers; }
    } const subscription(metrics);
    metrics.observe("/v1/events", 200, 0);
    std::string text =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n";
    for (;;) {
        const EventRing& events = service->events();
        if (!events.reaches(sequence)) {
            sequence = events.last();
            text += fmt::format("id: {}\nevent: resync\ndata: {{}}\n\n", sequence);
        }
        for (const Event& event : events.after(sequence, kEventsPerWrite)) {
            text += event_text(event);
            sequence = event.sequence;
        }
        if (text.empty()) {
            if (!co_await for_event.wait(kEventsKeepAlive)) text = ": keep-alive\n\n";
            continue;
        }
        stream.expires_after(std::chrono::milliseconds(options.request_ms_max));
        const auto [failure, bytes] =
            co_await asio::async_write(stream, asio::buffer(text), kToken);
        if (failure) co_return;
        text.clear();
    }
}

Server::Server(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}

Server::~Server() = default;

const std::string& Server::url() const { return implementation_->url; }

Result<std::unique_ptr<Server>> Server::start(const ServerOptions& options) {
    try {
        auto implementation = std::make_unique<Implementation>(options);
        WEIGHTCAST_CHECK(implementation->open_service());
        WEIGHTCAST_CHECK(implementation->bind());
        implementation->serve();
        return std::unique_ptr<Server>(new Server(std::move(implementation)));
    } catch (const std::exception& failure) {
        return Error{Code::io, 0, fmt::format("start the registry: {}", failure.what())};
    }
}

}  // namespace weightcast::registry
