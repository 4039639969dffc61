// What the clients of a registry share: its URL, and one HTTP/1.1 connection to it, whose
// operations are coroutines of the owner's io_context. Thread-bound, one operation at a time.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/system/error_code.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "weightcast/result.h"

namespace weightcast::registry {

struct HttpAddress {
    std::string url;  // http://HOST:PORT, for messages
    std::string host;
    std::string port;
    std::string token;  // bearer; empty: none
};

// Errors: invalid_input (the URL).
Result<HttpAddress> parse_http_address(const std::string& url, const std::string& token);

struct HttpRequest {
    std::string_view method = "GET";
    std::string_view target;
    std::string body;
};

struct HttpAnswer {
    unsigned status = 0;
    std::string content_type;
    std::string body;
};

// Where an operation broke; false if it did not.
struct HttpFailure {
    boost::system::error_code code;
    const char* step = "";  // resolve, connect, send, receive

    explicit operator bool() const { return code.failed(); }
    bool timed_out() const;
};

// As an error that names the registry, the target and the step. `ms_max` was the deadline.
Error explain(const HttpAddress& address, std::string_view target, const HttpFailure& failure,
              std::uint32_t ms_max);

class HttpConnection {
  public:
    // Borrows the context, which must run until an operation is over, or go.
    HttpConnection(boost::asio::io_context& context, HttpAddress address);
    ~HttpConnection();

    // Only a lookup of the host's name may last beyond the deadline: nobody can interrupt it.
    boost::asio::awaitable<HttpFailure> open(TimePoint deadline);
    bool looking_up() const;
    // REQUIRES, this one and the next: opened, and nothing failed since. The references are
    // borrowed until the operation is over. After a failure the connection is closed.
    boost::asio::awaitable<HttpFailure> exchange(const HttpRequest& request,
                                                 std::uint64_t body_bytes_max, TimePoint deadline,
                                                 HttpAnswer& answer);
    // As exchange(), but reads only the answer's head; read_some() gives the body.
    boost::asio::awaitable<HttpFailure> begin(const HttpRequest& request, TimePoint deadline,
                                              HttpAnswer& head);
    // `piece` is valid until the next call; it is empty at the end of the body.
    boost::asio::awaitable<HttpFailure> read_some(TimePoint deadline, std::string_view& piece);

    // Whether another exchange may follow: the server has not closed, nor said anything unasked.
    bool reusable() const;
    // What is pending fails.
    void close();

  private:
    struct Implementation;
    const std::unique_ptr<Implementation> implementation_;
};

}  // namespace weightcast::registry
