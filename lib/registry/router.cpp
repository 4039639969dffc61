#include "registry/router.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <exception>
#include <span>

#include "registry/json.h"

namespace weightcast::registry {
namespace {

constexpr std::string_view kManifests = "/v1/manifests/";
constexpr std::uint32_t kListMax = 1000;  // entries of a query's answer

struct Context {
    Service& service;
    Metrics& metrics;
    std::string_view argument;  // what follows the path of a route that ends with a slash
    std::string_view body;
    std::uint64_t& peer;
    std::uint32_t& later_ms;
};

// Requests by which a peer shows that it is there.
template <typename Request>
void note_peer(const Context& context, const Request& request) {
    if constexpr (requires { request.peer.id; }) context.peer = request.peer.id;
}

template <typename Message>
Result<std::string> text_of(Result<Message> result) {
    if (!result) return result.error();
    return encode(result.value());
}

Result<std::string> text_of(const Result<void>& result) {
    if (!result) return result.error();
    return std::string("{}");
}

// A route that decodes a Request and calls `kCall` of the service with it.
template <typename Request, auto kCall>
Result<std::string> call(const Context& context) {
    WEIGHTCAST_TRY(const Request request, decode<Request>(context.body));
    note_peer(context, request);
    return text_of((context.service.*kCall)(request));
}

Result<std::string> renew(const Context& context) {
    WEIGHTCAST_TRY(const auto request, decode<RenewRequest>(context.body));
    note_peer(context, request);
    const auto grant = context.service.renew_pull(request);
    // What it says of others, and of its rate, is to be counted once.
    if (grant && request.avoid.empty()) context.later_ms = grant.value().plan_ms;
    return text_of(grant);
}

Result<std::string> leave(const Context& context) {
    WEIGHTCAST_TRY(const auto request, decode<LeaveRequest>(context.body));
    return text_of(context.service.leave(request.peer));
}

Result<std::string> hold(const Context& context) {
    WEIGHTCAST_TRY(const auto request, decode<HoldRequest>(context.body));
    return text_of(context.service.hold(request.peer, request.holding));
}

Result<std::string> drop(const Context& context) {
    WEIGHTCAST_TRY(const auto request, decode<DropRequest>(context.body));
    return text_of(context.service.drop(request));
}

Result<std::string> put_manifest(const Context& context) {
    WEIGHTCAST_TRY(const auto name, model::parse_sha256(context.argument));
    return text_of(context.service.put_manifest(
        name, std::as_bytes(std::span(context.body.data(), context.body.size()))));
}

Result<std::string> get_manifest(const Context& context) {
    WEIGHTCAST_TRY(const auto name, model::parse_sha256(context.argument));
    WEIGHTCAST_TRY(const auto bytes, context.service.get_manifest(name));
    std::string text(bytes.size(), '\0');
    std::transform(bytes.begin(), bytes.end(), text.begin(),
                   [](std::byte byte) { return static_cast<char>(byte); });
    return text;
}

Result<std::string> find_holders(const Context& context) {
    WEIGHTCAST_TRY(const auto query, decode<BucketQuery>(context.body));
    WEIGHTCAST_TRY(auto peers,
                   context.service.holders_of_bucket(query.model, query.version, query.bucket,
                                                     std::min(query.count_max, kListMax)));
    return encode(BucketHolders{std::move(peers)});
}

Result<std::string> history(const Context& context) {
    WEIGHTCAST_TRY(const auto query, decode<HistoryQuery>(context.body));
    WEIGHTCAST_TRY(auto moves, context.service.history(query.model, query.channel,
                                                       std::min(query.count_max, kListMax)));
    return encode(History{std::move(moves)});
}

Result<std::string> cluster(const Context& context) { return text_of(context.service.cluster()); }

Result<std::string> list_models(const Context& context) {
    WEIGHTCAST_TRY(auto models, context.service.list_models());
    return encode(ModelList{std::move(models)});
}

Result<std::string> find_model(const Context& context) {
    WEIGHTCAST_TRY(const auto query, decode<ModelQuery>(context.body));
    return text_of(context.service.find_model(query.model));
}

Result<std::string> list_peers(const Context& context) {
    WEIGHTCAST_TRY(auto peers, context.service.list_peers());
    return encode(PeerList{std::move(peers)});
}

Result<std::string> health(const Context& context) {
    WEIGHTCAST_CHECK(context.service.cluster());
    return std::string("{\"status\":\"ok\"}");
}

Result<std::string> metrics(const Context& context) {
    return context.metrics.text(context.service.counts(), context.service.store_stats());
}

struct Route {
    std::string_view method;
    std::string_view path;
    Result<std::string> (*handle)(const Context& context);
    std::string_view content_type = kJsonType;
};

constexpr std::array kRoutes{
    Route{"GET", "/v1/cluster", cluster},
    Route{"GET", "/v1/peers", list_peers},
    Route{"POST", "/v1/peers", call<PeerInfo, &Service::register_peer>},
    Route{"POST", "/v1/peers/heartbeat", call<Heartbeat, &Service::heartbeat>},
    Route{"POST", "/v1/peers/leave", leave},
    Route{"PUT", kManifests, put_manifest},
    Route{"GET", kManifests, get_manifest, "application/octet-stream"},
    Route{"GET", "/v1/models", list_models},
    Route{"POST", "/v1/models/find", find_model},
    Route{"POST", "/v1/versions", call<PublishRequest, &Service::publish>},
    Route{"POST", "/v1/holdings", hold},
    Route{"POST", "/v1/holdings/drop", drop},
    Route{"POST", "/v1/holdings/find", find_holders},
    Route{"POST", "/v1/pulls", call<PullRequest, &Service::open_pull>},
    Route{"POST", "/v1/pulls/renew", renew},
    Route{"POST", "/v1/pulls/close", call<CloseRequest, &Service::close_pull>},
    Route{"POST", "/v1/reports", call<HolderReport, &Service::report>},
    Route{"POST", "/v1/channels", call<SetChannelRequest, &Service::set_channel>},
    Route{"POST", "/v1/channels/history", history},
    Route{"GET", "/healthz", health},
    Route{"GET", "/metrics", metrics, "text/plain; version=0.0.4"},
};

bool matches(const Route& route, std::string_view path) {
    return route.path.back() == '/' ? path.starts_with(route.path) : path == route.path;
}

}  // namespace

int http_status(Code code) noexcept {
    switch (code) {
        case Code::invalid_input:
            return 400;
        case Code::not_found:
            return 404;
        case Code::conflict:
            return 409;
        case Code::refused:
            return 403;
        case Code::unavailable:
            return 503;
        case Code::timed_out:
            return 408;
        case Code::stale:
            return 410;
        case Code::corrupt:
            return 422;
        case Code::no_space:
            return 507;
        case Code::io:
        case Code::cancelled:
            return 500;
    }
    return 500;
}

Code code_of_status(int status) noexcept {
    switch (status) {
        case 401:
        case 403:
            return Code::refused;
        case 404:
            return Code::not_found;
        case 408:
            return Code::timed_out;
        case 409:
            return Code::conflict;
        case 410:
            return Code::stale;
        case 422:
            return Code::corrupt;
        case 507:
            return Code::no_space;
        default:
            return status >= 500 ? Code::unavailable : Code::invalid_input;
    }
}

Reply error_reply(const Error& error, std::string_view route) {
    return {http_status(error.code), route, kJsonType, encode_error(error)};
}

Reply Router::handle(std::string_view method, std::string_view target, std::string_view body) {
    const std::string_view path = target.substr(0, target.find('?'));
    bool known_path = false;
    for (const Route& route : kRoutes) {
        if (!matches(route, path)) continue;
        known_path = true;
        if (route.method != method) continue;
        Reply reply{200, route.path, route.content_type, {}};
        const Context context{service_, metrics_,   path.substr(route.path.size()),
                              body,     reply.peer, reply.later_ms};
        try {
            auto text = route.handle(context);
            if (!text) return error_reply(text.error(), route.path);
            reply.body = std::move(text).value();
            return reply;
        } catch (const std::exception& failure) {
            return error_reply({Code::io, 0, fmt::format("{} failed: {}", path, failure.what())},
                               route.path);
        }
    }
    Reply reply = error_reply({Code::not_found, 0, fmt::format("there is no route {}", path)});
    if (known_path) {
        reply = error_reply({Code::invalid_input, 0, fmt::format("{} has no such method", path)});
        reply.status = 405;
    }
    return reply;
}

}  // namespace weightcast::registry
