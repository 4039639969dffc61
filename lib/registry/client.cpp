#include "registry/client.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <cerrno>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "registry/json.h"
#include "registry/router.h"

namespace weightcast::registry {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr std::size_t kTokenBytesMax = 4096;
constexpr std::size_t kReplyHeadBytesMax = 16384;

struct Call {
    http::verb method = http::verb::get;
    std::string_view target;
    std::string body;
    bool repeatable = true;  // doing it twice is as good as once
};

struct Answer {
    unsigned status = 0;
    std::string body;
};

// Where one attempt broke, for the decision to try again.
struct Failure {
    boost::system::error_code code;
    const char* step = "";
    bool reused = false;  // on a connection that had served before
};

class HttpClient final : public Api {
  public:
    HttpClient(ClientOptions options, std::string host, std::string port)
        : options_(std::move(options)), host_(std::move(host)), port_(std::move(port)) {}

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
        WEIGHTCAST_CHECK(exchange({http::verb::put, target, std::move(body)}));
        return success();
    }
    Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) override {
        const std::string target = "/v1/manifests/" + model::to_string(name);
        WEIGHTCAST_TRY(const std::string body, exchange({http::verb::get, target, {}}));
        const auto bytes = std::as_bytes(std::span(body.data(), body.size()));
        return std::vector<std::byte>(bytes.begin(), bytes.end());
    }
    Result<void> hold(const PeerRef& peer, const Holding& holding) override {
        return done(post<Nothing>("/v1/holdings", HoldRequest{peer, holding}));
    }
    Result<void> drop(const PeerRef& peer, const std::string& model,
                      std::uint64_t version) override {
        return done(post<Nothing>("/v1/holdings/drop", DropRequest{peer, model, version}));
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
        WEIGHTCAST_TRY(const std::string body, exchange({http::verb::get, target, {}}));
        return read<Answered>(target, body);
    }
    template <typename Answered, typename Request>
    Result<Answered> post(std::string_view target, const Request& request, bool repeatable = true) {
        WEIGHTCAST_TRY(const std::string body,
                       exchange({http::verb::post, target, encode(request), repeatable}));
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

    Result<std::string> exchange(const Call& call);
    Error explain(const Call& call, const Failure& failure) const;
    std::optional<Answer> attempt(const Call& call, TimePoint deadline, Failure& failure);
    bool connect(TimePoint deadline, Failure& failure);
    bool still_open();
    // Runs handlers until one sets `done`; the stream's own deadline sees to it that one does.
    void run_until(const bool& done);

    const ClientOptions options_;
    const std::string host_;
    const std::string port_;
    std::mutex mutex_;
    asio::io_context context_{1};
    std::optional<beast::tcp_stream> stream_;
};

void HttpClient::run_until(const bool& done) {
    context_.restart();
    while (!done && context_.run_one() > 0) continue;
    WEIGHTCAST_ASSERT(done);
}

// Whether the server has not closed the idle connection, nor said anything unasked.
bool HttpClient::still_open() {
    char byte = 0;
    const ssize_t got =
        ::recv(stream_->socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

bool HttpClient::connect(TimePoint deadline, Failure& failure) {
    failure.code = asio::error::timed_out;
    failure.step = "resolve";
    std::optional<tcp::resolver::results_type> found;
    boost::system::error_code numeric;
    const auto address = asio::ip::make_address(host_, numeric);
    if (!numeric) {
        const auto port = static_cast<std::uint16_t>(std::stoul(port_));
        found = tcp::resolver::results_type::create(tcp::endpoint(address, port), host_, port_);
    } else {
        // Looking up a name cannot be interrupted, it may end after this call has given up.
        struct Lookup {
            bool done = false;
            boost::system::error_code code;
            tcp::resolver::results_type results;
        };
        const auto lookup = std::make_shared<Lookup>();
        tcp::resolver resolver(context_);
        resolver.async_resolve(host_, port_,
                               [lookup](const boost::system::error_code& code,
                                        const tcp::resolver::results_type& results) {
                                   *lookup = {true, code, results};
                               });
        context_.restart();
        while (!lookup->done && context_.run_one_until(deadline) > 0) continue;
        if (lookup->done) failure.code = lookup->code;
        if (!lookup->done || lookup->code) return false;
        found = lookup->results;
    }
    failure.step = "connect";
    failure.code = asio::error::timed_out;
    stream_.emplace(context_);
    stream_->expires_at(deadline);
    bool done = false;
    stream_->async_connect(*found,
                           [&](const boost::system::error_code& code, const tcp::endpoint&) {
                               failure.code = code;
                               done = true;
                           });
    run_until(done);
    if (failure.code) {
        stream_.reset();
        return false;
    }
    boost::system::error_code ignored;
    stream_->socket().set_option(tcp::no_delay(true), ignored);
    return true;
}

std::optional<Answer> HttpClient::attempt(const Call& call, TimePoint deadline, Failure& failure) {
    if (stream_ && !still_open()) stream_.reset();
    failure.reused = stream_.has_value();
    if (!stream_ && !connect(deadline, failure)) return std::nullopt;
    http::request<http::string_body> request(
        call.method, beast::string_view(call.target.data(), call.target.size()), 11);
    request.set(http::field::host, host_ + ":" + port_);
    request.set(http::field::content_type, "application/json");
    if (!options_.token.empty()) {
        request.set(http::field::authorization, "Bearer " + options_.token);
    }
    request.body() = call.body;
    request.prepare_payload();
    http::response_parser<http::string_body> parser;
    parser.header_limit(kReplyHeadBytesMax);
    parser.body_limit(options_.body_bytes_max);
    beast::flat_buffer buffer(kReplyHeadBytesMax + 65536);
    stream_->expires_at(deadline);
    failure.step = "send";
    // A server that refuses a request early may answer before it has read all: so read its answer
    // even if sending failed.
    boost::system::error_code sent;
    bool done = false;
    http::async_write(*stream_, request, [&](const boost::system::error_code& code, std::size_t) {
        sent = code;
        if (code && code != asio::error::broken_pipe && code != asio::error::connection_reset) {
            failure.code = code;
            done = true;
            return;
        }
        failure.step = code ? "send" : "receive";
        http::async_read(*stream_, buffer, parser,
                         [&](const boost::system::error_code& read_code, std::size_t) {
                             failure.code = read_code;
                             done = true;
                         });
    });
    run_until(done);
    if (failure.code) {
        if (sent) failure.code = sent;
        stream_.reset();
        return std::nullopt;
    }
    if (sent || !parser.keep_alive()) stream_.reset();
    auto response = parser.release();
    return Answer{response.result_int(), std::move(response.body())};
}

Error HttpClient::explain(const Call& call, const Failure& failure) const {
    const std::string what =
        fmt::format("registry {}{}: {}", options_.url, call.target, failure.step);
    if (failure.code == beast::error::timeout || failure.code == asio::error::timed_out) {
        return {Code::timed_out, 0,
                fmt::format("{}: no answer within {} ms", what, options_.call_ms_max)};
    }
    if (failure.code == http::error::body_limit) {
        return {Code::invalid_input, 0,
                fmt::format("{}: the answer is larger than body_bytes_max, {} bytes", what,
                            options_.body_bytes_max)};
    }
    return {Code::unavailable, 0, fmt::format("{}: {}", what, failure.code.message())};
}

Result<std::string> HttpClient::exchange(const Call& call) {
    const std::scoped_lock lock(mutex_);
    const TimePoint deadline =
        system_clock().now() + std::chrono::milliseconds(options_.call_ms_max);
    try {
        Failure failure;
        auto answer = attempt(call, deadline, failure);
        const bool timed_out =
            failure.code == beast::error::timeout || failure.code == asio::error::timed_out;
        if (!answer && failure.reused && call.repeatable && !timed_out) {
            answer = attempt(call, deadline, failure);
        }
        if (!answer) return explain(call, failure);
        if (answer->status == 200) return std::move(answer->body);
        return decode_error(answer->body, code_of_status(static_cast<int>(answer->status)));
    } catch (const std::exception& failed) {
        stream_.reset();
        return Error{Code::io, 0,
                     fmt::format("registry {}{}: {}", options_.url, call.target, failed.what())};
    }
}

}  // namespace

Result<std::unique_ptr<Api>> connect(const ClientOptions& options) {
    const auto bad = [&options](std::string_view why) {
        return Error{Code::invalid_input, 0, fmt::format("registry URL {} {}", options.url, why)};
    };
    const auto parsed = boost::urls::parse_uri(options.url);
    if (!parsed) return bad("is malformed: " + parsed.error().message());
    const boost::urls::url_view url = parsed.value();
    if (url.scheme() != "http") return bad("must begin with http://");
    if (url.host_address().empty() || !url.has_port() || url.port_number() == 0) {
        return bad("must name a host and a port from 1 to 65535");
    }
    const bool path = !url.encoded_path().empty() && url.encoded_path() != "/";
    if (path || url.has_query() || url.has_fragment() || url.has_userinfo()) {
        return bad("must have nothing after the port");
    }
    try {
        return std::make_unique<HttpClient>(options, url.host_address(),
                                            std::to_string(url.port_number()));
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
