// registry-hello: the least that a Beast server can do, as the baseline of registry-load. It reads
// each request and answers with BYTES bytes, without a deadline or a limit.
//
// registry-hello BYTES
#include <fmt/core.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstdio>
#include <exception>
#include <string>

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

asio::awaitable<void> session(tcp::socket socket, const std::string& body) {
    socket.set_option(tcp::no_delay(true));
    boost::beast::flat_buffer buffer;
    try {
        for (;;) {
            http::request<http::string_body> request;
            co_await http::async_read(socket, buffer, request, asio::use_awaitable);
            http::response<http::string_body> response(http::status::ok, 11);
            response.set(http::field::content_type, "application/json");
            response.body() = body;
            response.prepare_payload();
            co_await http::async_write(socket, response, asio::use_awaitable);
        }
    } catch (const boost::system::system_error&) {
        co_return;  // the client has gone
    }
}

asio::awaitable<void> accept(tcp::acceptor& acceptor, const std::string& body) {
    for (;;) {
        auto socket = co_await acceptor.async_accept(asio::use_awaitable);
        asio::co_spawn(acceptor.get_executor(), session(std::move(socket), body), asio::detached);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        fmt::print(stderr, "usage: registry-hello BYTES\n");
        return 2;
    }
    try {
        const std::string body(std::stoul(argv[1]), 'x');
        asio::io_context context(1);
        tcp::acceptor acceptor(context, {asio::ip::make_address("127.0.0.1"), 0});
        fmt::print("{{\"event\":\"ready\",\"registry\":\"http://127.0.0.1:{}\"}}\n",
                   acceptor.local_endpoint().port());
        std::fflush(stdout);
        asio::co_spawn(context, accept(acceptor, body), asio::detached);
        context.run();
    } catch (const std::exception& failure) {
        fmt::print(stderr, "registry-hello: {}\n", failure.what());
        return 1;
    }
}
