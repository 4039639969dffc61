// From a request to its reply, without sockets: routes, bodies, error statuses. Thread-bound.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "registry/metrics.h"
#include "registry/service.h"

namespace weightcast::registry {

inline constexpr std::string_view kJsonType = "application/json";

struct Reply {
    int status = 200;
    std::string_view route = "none";  // its name in metrics
    std::string_view content_type = kJsonType;
    std::string body;
    std::uint64_t peer = 0;      // that called; 0: nobody in particular
    std::uint32_t later_ms = 0;  // not 0: after so long there is a better reply
};

// The HTTP status of an error code.
int http_status(Code code) noexcept;
// The code for a status whose body does not tell it.
Code code_of_status(int status) noexcept;
Reply error_reply(const Error& error, std::string_view route = "none");

class Router {
  public:
    // Borrows both.
    Router(Service& service, Metrics& metrics) : service_(service), metrics_(metrics) {}

    // `target` is the path, perhaps with a query, which no route uses.
    Reply handle(std::string_view method, std::string_view target, std::string_view body);

  private:
    Service& service_;
    Metrics& metrics_;
};

}  // namespace weightcast::registry
