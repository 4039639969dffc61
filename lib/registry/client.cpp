#include "registry/client.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/http/error.hpp>
#include <cerrno>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "registry/http_connection.h"
#include "registry/json.h"
#include "registry/router.h"

namespace weightcast::registry {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr std::size_t kTokenBytesMax = 4096;

// How one attempt went, for the decision to try again.
struct Attempt {
    HttpFailure failure;
    HttpAnswer answer;
    bool reused = false;  // on a connection that had served before
};

// What a coroutine of the context leaves for the thread that runs it.
struct Outcome {
    bool done = false;
    HttpFailure failure;
};

auto finish(const std::shared_ptr<Outcome>& outcome) {
    return [outcome](const std::exception_ptr& broken, const HttpFailure& failure) {
        outcome->done = true;
        if (broken) std::rethrow_exception(broken);
        outcome->failure = failure;
    };
}

class HttpClient final : public Api {
  public:
    HttpClient(ClientOptions options, HttpAddress address)
        : options_(std::move(options)), address_(std::move(address)) {}

    Result<ClusterInfo> cluster() override { return get<ClusterInfo>("/v1/cluster"); }

    Result<PeerLease> register_peer(const PeerInfo& info) override {
        return post<PeerLease>("/v1/peers", info);
    }
    Result<HeartbeatReply> heartbeat(const Heartbeat& heartbeat) override {
        return post<HeartbeatReply>("/v1/peers/heartbeat", heartbeat);
    }
    Result<void> leave(const PeerRef& peer) override {
        return done(post<Nothing>("/v1/peers/leave", LeaveRequest{peer}));
    }
    Result<PublishReply> publish(const PublishRequest& request) override {
        return post<PublishReply>("/v1/versions", request);
    }
    Result<void> put_manifest(const model::Sha256& name,
                              std::span<const std::byte> encoded) override {
        const std::string target = "/v1/manifests/" + model::to_string(name);
        std::string body(reinterpret_cast<const char*>(encoded.data()), encoded.size());
        WEIGHTCAST_CHECK(exchange({"PUT", target, std::move(body)}));
        return success();
    }
    Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) override {
        const std::string target = "/v1/manifests/" + model::to_string(name);
        WEIGHTCAST_TRY(const std::string body, exchange({"GET", target, {}}));
        const auto bytes = std::as_bytes(std::span(body.data(), body.size()));
        return std::vector<std::byte>(bytes.begin(), bytes.end());
    }
    Result<void> hold(const PeerRef& peer, const Holding& holding) override {
        return done(post<Nothing>("/v1/holdings", HoldRequest{peer, holding}));
    }
    Result<DropReply> drop(const DropRequest& request) override {
        return post<DropReply>("/v1/holdings/drop", request);
    }
    // A read lease that was opened but whose reply was lost would bind its holders until the
    // reader's own lease ends, hence no second attempt.
    Result<Grant> open_pull(const PullRequest& request) override {
        return post<Grant>("/v1/pulls", request, false);
    }
    Result<Grant> renew_pull(const RenewRequest& request) override {
        return post<Grant>("/v1/pulls/renew", request);
    }
    Result<void> close_pull(const CloseRequest& request) override {
        return done(post<Nothing>("/v1/pulls/close", request));
    }
    Result<void> report(const HolderReport& report) override {
        return done(post<Nothing>("/v1/reports", report));
    }
    Result<std::vector<ModelInfo>> list_models() override {
        WEIGHTCAST_TRY(ModelList list, get<ModelList>("/v1/models"));
        return std::move(list.models);
    }
    Result<ModelInfo> find_model(const std::string& name) override {
        return post<ModelInfo>("/v1/models/find", ModelQuery{name});
    }
    Result<std::vector<PeerSummary>> list_peers() override {
        WEIGHTCAST_TRY(PeerList list, get<PeerList>("/v1/peers"));
        return std::move(list.peers);
    }
    Result<ChannelInfo> set_channel(const SetChannelRequest& request) override {
        return post<ChannelInfo>("/v1/channels", request, false);
    }
    Result<std::vector<ChannelMoved>> history(const std::string& model, const std::string& channel,
                                              std::size_t count_max) override {
        const HistoryQuery query{model, channel, static_cast<std::uint32_t>(count_max)};
        WEIGHTCAST_TRY(History answer, post<History>("/v1/channels/history", query));
        return std::move(answer.moves);
    }

  private:
    template <typename T>
    static Result<void> done(const Result<T>& result) {
        if (!result) return result.error();
        return success();
    }
    template <typename Answered>
    Result<Answered> get(std::string_view target) {
        WEIGHTCAST_TRY(const std::string body, exchange({"GET", target, {}}));
        return read<Answered>(target, body);
    }
    template <typename Answered, typename Request>
    Result<Answered> post(std::string_view target, const Request& request, bool repeatable = true) {
        WEIGHTCAST_TRY(const std::string body,
                       exchange({"POST", target, encode(request)}, repeatable));
        return read<Answered>(target, body);
    }
    template <typename Answered>
    Result<Answered> read(std::string_view target, const std::string& body) const {
        auto answer = decode<Answered>(body);
        if (answer) return answer;
        return Error{Code::unavailable, 0,
                     fmt::format("{}{} does not answer as a registry: {}", options_.url, target,
                                 answer.error().message)};
    }

    // `repeatable`: doing it twice is as good as once.
    Result<std::string> exchange(const HttpRequest& request, bool repeatable = true);
    Error explain_failure(const HttpRequest& request, const HttpFailure& failure) const;
    void attempt(const HttpRequest& request, TimePoint deadline, Attempt& made);
    HttpFailure open(TimePoint deadline);

    const ClientOptions options_;
    const HttpAddress address_;
    std::mutex mutex_;
    asio::io_context context_{1};
    // Shared, because looking up a name cannot be interrupted and may end after a call gave up.
    std::shared_ptr<HttpConnection> connection_;
};

HttpFailure HttpClient::open(TimePoint deadline) {
    connection_ = std::make_shared<HttpConnection>(context_, address_);
    const auto outcome = std::make_shared<Outcome>();
    outcome->failure = {asio::error::timed_out, "resolve"};
    asio::co_spawn(context_, connection_->open(deadline),
                   [connection = connection_, end = finish(outcome)](
                       const std::exception_ptr& broken, const HttpFailure& failure) {
                       end(broken, failure);
                   });
    context_.restart();
    std::size_t ran = 1;
    while (!outcome->done && ran > 0) {
        // All but a lookup ends by itself at the deadline.
        ran = connection_->looking_up() ? context_.run_one_until(deadline) : context_.run_one();
    }
    if (outcome->failure) connection_.reset();
    return outcome->failure;
}

void HttpClient::attempt(const HttpRequest& request, TimePoint deadline, Attempt& made) {
    if (connection_ && !connection_->reusable()) connection_.reset();
    made.reused = connection_ != nullptr;
    if (!connection_) made.failure = open(deadline);
    if (!connection_) return;
    const auto outcome = std::make_shared<Outcome>();
    asio::co_spawn(context_,
                   connection_->exchange(request, options_.body_bytes_max, deadline, made.answer),
                   finish(outcome));
    // The connection's own deadline sees to it that this ends.
    context_.restart();
    while (!outcome->done && context_.run_one() > 0) continue;
    WEIGHTCAST_ASSERT(outcome->done);
    made.failure = outcome->failure;
}

Error HttpClient::explain_failure(const HttpRequest& request, const HttpFailure& failure) const {
    if (failure.code == http::error::body_limit) {
        return invalid_input(
            fmt::format("registry {}{}: {}: the answer is larger than body_bytes_max, {} bytes",
                        address_.url, request.target, failure.step, options_.body_bytes_max));
    }
    return explain(address_, request.target, failure, options_.call_ms_max);
}

Result<std::string> HttpClient::exchange(const HttpRequest& request, bool repeatable) {
    const std::scoped_lock lock(mutex_);
    const TimePoint deadline =
        system_clock().now() + std::chrono::milliseconds(options_.call_ms_max);
    try {
        Attempt made;
        attempt(request, deadline, made);
        if (made.failure && made.reused && repeatable && !made.failure.timed_out()) {
            made = {};
            attempt(request, deadline, made);
        }
        if (made.failure) return explain_failure(request, made.failure);
        if (made.answer.status == 200) return std::move(made.answer.body);
        return decode_error(made.answer.body, code_of_status(static_cast<int>(made.answer.status)));
    } catch (const std::exception& failed) {
        connection_.reset();
        return Error{Code::io, 0,
                     fmt::format("registry {}{}: {}", options_.url, request.target, failed.what())};
    }
}

}  // namespace

Result<std::unique_ptr<Api>> connect(const ClientOptions& options) {
    WEIGHTCAST_TRY(HttpAddress address, parse_http_address(options.url, options.token));
    try {
        return std::make_unique<HttpClient>(options, std::move(address));
    } catch (const std::exception& failed) {
        return Error{Code::io, 0, fmt::format("registry {}: {}", options.url, failed.what())};
    }
}

Result<std::string> read_token_file(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file) return system_error(errno, "open token file " + path);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return system_error(errno, "stat token file " + path);
    if (!S_ISREG(status.st_mode)) {
        return Error{Code::invalid_input, 0, "token file " + path + " is not a regular file"};
    }
    if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return Error{Code::invalid_input, 0,
                     "token file " + path + " may be used by others than its owner: chmod 600"};
    }
    std::array<char, kTokenBytesMax + 1> text{};
    std::size_t bytes = 0;
    while (bytes < text.size()) {
        const ssize_t got = ::read(file.get(), text.data() + bytes, text.size() - bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return system_error(errno, "read token file " + path);
        if (got == 0) break;
        bytes += static_cast<std::size_t>(got);
    }
    if (bytes > kTokenBytesMax) {
        return Error{Code::invalid_input, 0,
                     fmt::format("token file {} has more than {} bytes", path, kTokenBytesMax)};
    }
    const std::string_view all(text.data(), bytes);
    const auto first = all.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos) {
        return Error{Code::invalid_input, 0, "token file " + path + " is empty"};
    }
    const std::string_view token = all.substr(first, all.find_last_not_of(" \t\r\n") - first + 1);
    for (const char c : token) {
        if (c > ' ' && c <= '~') continue;
        return Error{Code::invalid_input, 0,
                     "token file " + path + " must hold one word of visible ASCII characters"};
    }
    return std::string(token);
}

}  // namespace weightcast::registry
