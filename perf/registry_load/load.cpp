// registry-load: many agents on fewer keep-alive connections, as fast as the server answers.
//
// registry-load URL registry|hello AGENTS CONNECTIONS SECONDS
//
// Each agent in turn sends: heartbeat, open a pull, heartbeat, renew, heartbeat, close. In the mode
// "hello" the same bytes go to a server that understands none of it. Prints one line of JSON.
#include <fmt/core.h>

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <chrono>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "registry/client.h"
#include "registry/json.h"

namespace weightcast::registry {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Steady = std::chrono::steady_clock;

constexpr std::uint64_t kRequestsMax = 5'000'000;

struct Load {
    std::string host;
    std::string port;
    bool registry = true;
    std::size_t agents = 0;
    std::size_t connections = 0;
    std::chrono::duration<double> time{};
};

struct Totals {
    std::vector<float> seconds;  // of each request
    std::uint64_t sent_bytes = 0;
    std::uint64_t received_bytes = 0;  // bodies
    std::size_t ready = 0;             // connections that have registered their agents
    Steady::time_point start;
    Steady::time_point end;
};

std::uint64_t number_after(std::string_view text, std::string_view mark) {
    const auto at = text.find(mark);
    if (at == std::string_view::npos)
        throw std::runtime_error(fmt::format("no {}: {}", mark, text));
    std::uint64_t number = 0;
    std::from_chars(text.data() + at + mark.size(), text.data() + text.size(), number);
    return number;
}

class Connection {
  public:
    Connection(asio::io_context& context, const Load& load, Totals& totals, std::size_t index)
        : socket_(context), load_(load), totals_(totals), index_(index) {}

    asio::awaitable<void> run() {
        const tcp::endpoint server(asio::ip::make_address(load_.host),
                                   static_cast<std::uint16_t>(std::stoi(load_.port)));
        co_await socket_.async_connect(server, asio::use_awaitable);
        socket_.set_option(tcp::no_delay(true));
        for (std::size_t agent = index_; agent < load_.agents; agent += load_.connections) {
            co_await join(agent);
        }
        if (++totals_.ready == load_.connections) totals_.start = Steady::now();
        while (!done()) {
            for (const PeerRef& peer : peers_) {
                if (done()) break;
                co_await step(peer);
            }
        }
    }

  private:
    bool done() const {
        if (totals_.ready < load_.connections) return false;
        return Steady::now() - totals_.start >= load_.time ||
               totals_.seconds.size() >= kRequestsMax;
    }

    asio::awaitable<void> join(std::size_t agent) {
        PeerInfo info;
        info.name = fmt::format("agent-{}", agent);
        info.host = fmt::format("host-{}", agent / 8);
        info.incarnation[0] = std::byte{1};
        info.addresses["tcp"] = "10.0.0.1:7000";
        const std::string body = encode(info);
        const std::string reply = co_await ask("/v1/peers", body);
        PeerRef peer{1ULL << 47U, 1ULL << 47U};
        if (load_.registry) {
            peer = {number_after(reply, "\"id\":"), number_after(reply, "\"epoch\":")};
        }
        peers_.push_back(peer);
    }

    // Bodies are built apart: g++ 12 destroys the temporaries of a co_await expression twice.
    asio::awaitable<void> step(PeerRef peer) {
        const std::string heartbeat = encode(Heartbeat{peer, {}});
        const std::string open = encode(PullRequest{peer, "m", ":stable", 4});
        co_await ask("/v1/peers/heartbeat", heartbeat);
        const std::string grant = co_await ask("/v1/pulls", open);
        std::uint64_t pull = 1ULL << 47U;
        if (load_.registry) pull = number_after(grant, "\"pull\":");
        const std::string renew = encode(RenewRequest{peer, pull, {}, 4});
        const std::string close = encode(CloseRequest{peer, pull, true, 1000, 1, 1.1});
        co_await ask("/v1/peers/heartbeat", heartbeat);
        co_await ask("/v1/pulls/renew", renew);
        co_await ask("/v1/peers/heartbeat", heartbeat);
        co_await ask("/v1/pulls/close", close);
    }

    // The reply's body. Throws if the status is not 200.
    asio::awaitable<std::string> ask(std::string_view target, const std::string& body) {
        const std::string request = fmt::format(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n"
            "Content-Length: {}\r\n\r\n{}",
            target, load_.host, body.size(), body);
        const auto start = Steady::now();
        co_await asio::async_write(socket_, asio::buffer(request), asio::use_awaitable);
        std::string reply;
        const std::size_t head = co_await asio::async_read_until(
            socket_, asio::dynamic_buffer(reply, 1U << 20U), "\r\n\r\n", asio::use_awaitable);
        if (!reply.starts_with("HTTP/1.1 200 ")) throw std::runtime_error(reply);
        const std::size_t bytes = number_after(reply, "Content-Length: ");
        const std::size_t have = reply.size() - head;
        reply.resize(head + bytes);
        if (have < bytes) {
            co_await asio::async_read(socket_, asio::buffer(&reply[head + have], bytes - have),
                                      asio::use_awaitable);
        }
        if (totals_.ready == load_.connections) {
            totals_.end = Steady::now();
            totals_.seconds.push_back(std::chrono::duration<float>(totals_.end - start).count());
            totals_.sent_bytes += body.size();
            totals_.received_bytes += bytes;
        }
        reply.erase(0, head);
        co_return reply;
    }

    tcp::socket socket_;
    const Load& load_;
    Totals& totals_;
    std::size_t index_;
    std::vector<PeerRef> peers_;
};

template <typename T>
T need(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message);
    if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

// A version and a few holders of it, for pulls to be granted.
void publish(const std::string& url) {
    const auto api = need(connect({.url = url}));
    const std::string text = "manifest";
    PublishRequest request;
    Holding holding;
    for (int i = 0; i < 8; ++i) {
        PeerInfo info;
        info.name = fmt::format("holder-{}", i);
        info.host = fmt::format("holder-host-{}", i);
        info.addresses["tcp"] = "10.0.0.1:7000";
        const PeerRef peer = need(api->register_peer(info)).peer;
        if (i == 0) {
            request.peer = peer;
            request.model = holding.model = "m";
            request.version = holding.version = 1;
            request.manifest = model::sha256(std::as_bytes(std::span(text)));
            request.manifest_bytes = text.size();
            request.bytes = holding.bytes_held = 1000;
            request.bucket_count = request.chunk_count = 1;
            request.channel = "stable";
            need(api->put_manifest(request.manifest, std::as_bytes(std::span(text))));
            need(api->publish(request));
            holding.complete = true;
            holding.buckets = "01";
            holding.extents = {{0, 1000, 0, 0}};
            holding.keys["tcp"] = {{std::vector<std::byte>(32)}, std::vector<std::byte>(32), {}};
        }
        need(api->hold(peer, holding));
    }
}

void run(const std::string& url, const Load& load) {
    if (load.registry) publish(url);
    asio::io_context context(1);
    Totals totals;
    totals.seconds.reserve(1U << 20U);
    std::vector<std::unique_ptr<Connection>> connections;
    for (std::size_t i = 0; i < load.connections; ++i) {
        connections.push_back(std::make_unique<Connection>(context, load, totals, i));
        asio::co_spawn(context, connections.back()->run(), [](std::exception_ptr broken) {
            if (broken) std::rethrow_exception(broken);
        });
    }
    context.run();
    auto& times = totals.seconds;
    if (times.empty()) throw std::runtime_error("no request was made");
    std::sort(times.begin(), times.end());
    const double seconds = std::chrono::duration<double>(totals.end - totals.start).count();
    const auto count = static_cast<double>(times.size());
    fmt::print(
        "{{\"requests\":{},\"seconds\":{:.3f},\"per_second\":{:.0f},\"p50_ms\":{:.3f},"
        "\"p99_ms\":{:.3f},\"request_bytes\":{:.0f},\"reply_bytes\":{:.0f}}}\n",
        times.size(), seconds, count / seconds, times[times.size() / 2] * 1e3,
        times[times.size() * 99 / 100] * 1e3, static_cast<double>(totals.sent_bytes) / count,
        static_cast<double>(totals.received_bytes) / count);
}

}  // namespace
}  // namespace weightcast::registry

int main(int argc, char** argv) {
    if (argc != 6) {
        fmt::print(stderr, "usage: registry-load URL registry|hello AGENTS CONNECTIONS SECONDS\n");
        return 2;
    }
    try {
        const std::string url = argv[1];
        const auto colon = url.rfind(':');
        const weightcast::registry::Load load{url.substr(7, colon - 7),
                                              url.substr(colon + 1),
                                              std::string(argv[2]) == "registry",
                                              std::stoul(argv[3]),
                                              std::stoul(argv[4]),
                                              std::chrono::duration<double>(std::stod(argv[5]))};
        weightcast::registry::run(url, load);
        return 0;
    } catch (const std::exception& failure) {
        fmt::print(stderr, "registry-load: {}\n", failure.what());
        return 1;
    }
}
