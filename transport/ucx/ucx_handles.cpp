#include "transport/ucx/ucx_handles.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>

#include <charconv>
#include <csignal>
#include <cstring>

#include "transport/ucx/load_ucx.h"

namespace weightcast::transport::ucx {
namespace {

constexpr std::string_view kScheme = "ucx://";

std::optional<SocketAddress> make_address(const std::string& host, std::uint16_t port) {
    SocketAddress result;
    auto* v4 = reinterpret_cast<::sockaddr_in*>(&result.storage);
    auto* v6 = reinterpret_cast<::sockaddr_in6*>(&result.storage);
    if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        result.bytes = sizeof *v4;
        return result;
    }
    if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        result.bytes = sizeof *v6;
        return result;
    }
    return std::nullopt;
}

}  // namespace

Error ucx_error(Code code, ::ucs_status_t status, const std::string& what) {
    return {code, 0, fmt::format("{}: {}", what, ::ucs_status_string(status))};
}

Result<Context> make_context() {
    WEIGHTCAST_CHECK(load());
    // UCX belongs in a library here: it must neither talk nor catch the program's signals.
    for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) ::ucs_debug_disable_signal(signal);
    ::ucs_global_opts_set_value("LOG_LEVEL", "fatal");
    ::ucp_config_t* config = nullptr;
    if (const auto status = ::ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
        return ucx_error(Code::unavailable, status, "ucp_config_read");
    }
    ::ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
    // Without the RMA feature nobody can have UCX read an address of their choice.
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    params.mt_workers_shared = 1;
    ::ucp_context_h context = nullptr;
    const auto status = ::ucp_init(&params, config, &context);
    ::ucp_config_release(config);
    if (status != UCS_OK) return ucx_error(Code::unavailable, status, "ucp_init");
    return Context(context);
}

Result<Worker> make_worker(::ucp_context_h context) {
    ::ucp_worker_params_t params{};
    params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    ::ucp_worker_h worker = nullptr;
    const auto status = ::ucp_worker_create(context, &params, &worker);
    if (status != UCS_OK) return ucx_error(Code::io, status, "ucp_worker_create");
    return Worker(worker);
}

std::string SocketAddress::text() const {
    std::array<char, INET6_ADDRSTRLEN> host{};
    if (storage.ss_family == AF_INET) {
        const auto* v4 = reinterpret_cast<const ::sockaddr_in*>(&storage);
        ::inet_ntop(AF_INET, &v4->sin_addr, host.data(), host.size());
        return fmt::format("{}{}:{}", kScheme, host.data(), ntohs(v4->sin_port));
    }
    const auto* v6 = reinterpret_cast<const ::sockaddr_in6*>(&storage);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, host.data(), host.size());
    return fmt::format("{}[{}]:{}", kScheme, host.data(), ntohs(v6->sin6_port));
}

std::optional<SocketAddress> parse_address(std::string_view text) {
    if (text.substr(0, kScheme.size()) != kScheme) return std::nullopt;
    text.remove_prefix(kScheme.size());
    const auto colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    const auto digits = text.substr(colon + 1);
    std::uint16_t port = 0;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (code != std::errc() || end != digits.data() + digits.size() || port == 0) {
        return std::nullopt;
    }
    auto host = text.substr(0, colon);
    const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    if (bracketed != (host.find(':') != std::string_view::npos)) return std::nullopt;
    return make_address(std::string(host), port);
}

Result<SocketAddress> parse_listen(const std::string& host) {
    const auto address = make_address(host, 0);
    if (!address || host == "0.0.0.0" || host == "::") {
        return Error{Code::invalid_input, 0,
                     fmt::format("ucx needs the numeric address under which peers reach this "
                                 "host, not \"{}\"",
                                 host)};
    }
    return *address;
}

bool finish_request(::ucp_worker_h worker, void* request, Duration patience) {
    if (request == nullptr || UCS_PTR_IS_ERR(request)) return true;
    const TimePoint deadline = system_clock().now() + patience;
    bool done = false;
    while (!(done = ::ucp_request_check_status(request) != UCS_INPROGRESS) &&
           system_clock().now() < deadline) {
        ::ucp_worker_progress(worker);
    }
    ::ucp_request_free(request);
    return done;
}

}  // namespace weightcast::transport::ucx
