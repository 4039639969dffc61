// One coroutine subscribes, reads the channel, listens, and begins again when that broke. It runs
// while next() does; in between, what arrives waits in the socket.
#include "registry/watch.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/numbers.h"
#include "base/random.h"
#include "registry/event.h"
#include "registry/event_stream.h"
#include "registry/http_connection.h"
#include "registry/json.h"
#include "registry/router.h"

namespace weightcast::registry {
namespace {

namespace asio = boost::asio;

constexpr std::string_view kEventsTarget = "/v1/events";
constexpr std::string_view kHistoryTarget = "/v1/channels/history";
constexpr std::chrono::milliseconds kWatchBackOffMin{50};
constexpr std::chrono::milliseconds kWatchBackOffMax{2000};
constexpr Duration kSilenceMax = 3 * kEventsKeepAlive;
constexpr std::chrono::hours kWaitMax{24 * 365};
constexpr std::size_t kRefusalBytesMax = 4096;
constexpr std::uint64_t kLastMoveBytesMax = 1U << 20U;
constexpr int kTurnsMax = 256;  // between two looks at the clock

class HttpWatch final : public ChannelWatch {
  public:
    HttpWatch(const ClientOptions& options, HttpAddress address, std::string model,
              std::string channel)
        : call_ms_max_(options.call_ms_max),
          address_(std::move(address)),
          model_(std::move(model)),
          channel_(std::move(channel)),
          random_(random_seed()) {
        asio::co_spawn(context_, run(), asio::detached);
    }

    Result<std::optional<ChannelInfo>> next(std::uint64_t known,
                                            std::chrono::milliseconds wait) override;
    void cancel() override {
        if (!cancelled_.exchange(true)) asio::post(context_, [] {});
    }
    const std::string& trouble() const override { return trouble_; }

  private:
    // Nothing that is known of a connection outlives it.
    struct Listening {
        HttpWatch& watch;
        const TimePoint begin = system_clock().now();
        Listening(HttpWatch& by, HttpConnection& to) : watch(by) {
            watch.events_ = &to;
            watch.sequence_.reset();
            watch.stale_ = true;
        }
        ~Listening() {
            watch.events_ = nullptr;
            watch.silence_end_ = TimePoint::max();
            watch.latest_.reset();
            // One that only accepts and closes again is not asked more and more often.
            const bool lasted = system_clock().now() - begin >= kWatchBackOffMax;
            if (lasted) watch.back_off_ = kWatchBackOffMin;
        }
    };

    Result<std::optional<ChannelInfo>> wait_until(std::uint64_t known, TimePoint deadline);
    bool drain();
    void lose(const Error& error);
    void lose_events(std::string_view why);
    void lose_answer(std::string_view target, const HttpAnswer& answer);

    asio::awaitable<void> run();
    asio::awaitable<void> follow();
    asio::awaitable<bool> subscribe(HttpConnection& events);
    asio::awaitable<bool> read_channel();
    asio::awaitable<void> listen(HttpConnection& events);
    void take(const StreamEvent& event);

    TimePoint call_deadline() const {
        return system_clock().now() + std::chrono::milliseconds(call_ms_max_);
    }

    const std::uint32_t call_ms_max_;
    const HttpAddress address_;
    const std::string model_;
    const std::string channel_;
    std::atomic<bool> cancelled_{false};
    Random random_;
    std::chrono::milliseconds back_off_ = kWatchBackOffMin;
    std::string trouble_;
    std::optional<Error> refusal_;              // not told yet
    HttpConnection* events_ = nullptr;          // while it is listened to
    TimePoint silence_end_ = TimePoint::max();  // when events_ is taken for dead
    bool stale_ = false;                        // the channel must be read again
    std::optional<std::uint64_t> sequence_;     // of the last event of events_
    std::optional<ChannelInfo> latest_;         // as events_ tells it; none: it does not exist
    // The coroutine refers to all of these, and goes with the context: it is declared last.
    asio::io_context context_{1};
    asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
};

Result<std::optional<ChannelInfo>> HttpWatch::next(std::uint64_t known,
                                                   std::chrono::milliseconds wait) {
    const auto bounded =
        std::clamp<std::chrono::milliseconds>(wait, std::chrono::milliseconds(0), kWaitMax);
    try {
        return wait_until(known, system_clock().now() + bounded);
    } catch (const std::exception& failed) {
        return Error{Code::io, 0, fmt::format("registry {}: {}", address_.url, failed.what())};
    }
}

Result<std::optional<ChannelInfo>> HttpWatch::wait_until(std::uint64_t known, TimePoint deadline) {
    for (;;) {
        const bool idle = drain();
        // Only now: what cancel() posts to wake this thread may have been drained just before.
        if (cancelled_) {
            return Error{Code::cancelled, 0,
                         fmt::format("the watch of {}:{} was cancelled", model_, channel_)};
        }
        if (refusal_) return *std::exchange(refusal_, std::nullopt);
        if (latest_ && latest_->generation != known) return latest_;
        const TimePoint now = system_clock().now();
        if (now >= deadline) return std::optional<ChannelInfo>{};
        if (!idle) continue;
        if (now >= silence_end_) {
            silence_end_ = TimePoint::max();
            events_->close();
            continue;
        }
        context_.run_one_until(std::min(deadline, silence_end_));
    }
}

// Lets the coroutine see all that has arrived, before a deadline is looked at: nobody may have
// waited for long. False: there may be more.
bool HttpWatch::drain() {
    for (int turn = 0; turn < kTurnsMax; ++turn) {
        if (context_.poll_one() == 0) return true;
    }
    return false;
}

void HttpWatch::lose(const Error& error) {
    trouble_ = error.message;
    if (error.code == Code::refused) refusal_ = error;
}

void HttpWatch::lose_events(std::string_view why) {
    lose(
        {Code::unavailable, 0, fmt::format("registry {}{}: {}", address_.url, kEventsTarget, why)});
}

// Only the status tells whether the token was refused.
void HttpWatch::lose_answer(std::string_view target, const HttpAnswer& answer) {
    const Code code = code_of_status(static_cast<int>(answer.status));
    lose({code, 0,
          fmt::format("registry {}{}: status {}: {}", address_.url, target, answer.status,
                      decode_error(answer.body, code).message)});
}

asio::awaitable<void> HttpWatch::run() {
    asio::steady_timer pause(context_);
    for (;;) {
        try {
            co_await follow();
        } catch (const std::exception& failed) {
            lose({Code::io, 0, fmt::format("registry {}: {}", address_.url, failed.what())});
        }
        const auto half = static_cast<std::uint64_t>(back_off_.count()) / 2;
        pause.expires_after(std::chrono::milliseconds(half + random_.below(half + 1)));
        back_off_ = std::min(2 * back_off_, kWatchBackOffMax);
        co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
    }
}

// Subscribes first and reads then, so that no move is between the two.
asio::awaitable<void> HttpWatch::follow() {
    HttpConnection events(context_, address_);
    const bool subscribed = co_await subscribe(events);
    if (subscribed) co_await listen(events);
}

asio::awaitable<bool> HttpWatch::subscribe(HttpConnection& events) {
    const TimePoint deadline = call_deadline();
    const HttpRequest request{"GET", kEventsTarget, {}};
    HttpAnswer head;
    HttpFailure failure = co_await events.open(deadline);
    if (!failure) failure = co_await events.begin(request, deadline, head);
    if (failure) {
        lose(explain(address_, kEventsTarget, failure, call_ms_max_));
        co_return false;
    }
    if (head.status == 200 && head.content_type.starts_with("text/event-stream")) co_return true;
    if (head.status == 200) {
        lose_events(
            fmt::format("not a registry's answer, for it is of type \"{}\"", head.content_type));
        co_return false;
    }
    std::string_view piece;
    do {
        failure = co_await events.read_some(deadline, piece);
        head.body += piece;
    } while (!failure && !piece.empty() && head.body.size() < kRefusalBytesMax);
    lose_answer(kEventsTarget, head);
    co_return false;
}

asio::awaitable<bool> HttpWatch::read_channel() {
    const TimePoint deadline = call_deadline();
    const HttpRequest request{"POST", kHistoryTarget, encode(HistoryQuery{model_, channel_, 1})};
    HttpAnswer answer;
    HttpConnection connection(context_, address_);
    HttpFailure failure = co_await connection.open(deadline);
    if (!failure) {
        failure = co_await connection.exchange(request, kLastMoveBytesMax, deadline, answer);
    }
    if (failure) {
        lose(explain(address_, kHistoryTarget, failure, call_ms_max_));
        co_return false;
    }
    if (answer.status != 200) {
        lose_answer(kHistoryTarget, answer);
        co_return false;
    }
    auto history = decode<History>(answer.body);
    if (!history) {
        lose({Code::unavailable, 0,
              fmt::format("registry {}{}: not a registry's answer: {}", address_.url,
                          kHistoryTarget, history.error().message)});
        co_return false;
    }
    latest_.reset();
    if (!history.value().moves.empty()) latest_ = history.value().moves.back().channel;
    trouble_.clear();
    co_return true;
}

asio::awaitable<void> HttpWatch::listen(HttpConnection& events) {
    const Listening listening(*this, events);
    EventStreamParser parser;
    for (;;) {
        if (std::exchange(stale_, false)) {
            const bool known = co_await read_channel();
            if (!known) co_return;
        }
        std::string_view piece;
        silence_end_ = system_clock().now() + kSilenceMax;
        const HttpFailure failure = co_await events.read_some(TimePoint::max(), piece);
        silence_end_ = TimePoint::max();
        if (failure.code == asio::error::operation_aborted) {
            lose_events(fmt::format("nothing came for {:.0f} s", seconds(kSilenceMax)));
            co_return;
        }
        if (failure || piece.empty()) {
            lose_events(failure ? failure.code.message() : "the stream ended");
            co_return;
        }
        const auto read = parser.push(piece, [this](const StreamEvent& event) { take(event); });
        if (!read) {
            lose_events(read.error().message);
            co_return;
        }
    }
}

void HttpWatch::take(const StreamEvent& event) {
    const auto sequence = parse_number(event.id);
    const bool gap = sequence_ && sequence && *sequence != *sequence_ + 1;
    if (!sequence || gap || event.name == "resync") stale_ = true;
    if (sequence) sequence_ = sequence;
    if (event.name != to_string(EventKind::channel_moved)) return;
    const auto decoded = decode<Event>(event.data);
    if (!decoded) {
        stale_ = true;
        return;
    }
    const Event& moved = decoded.value();
    if (moved.model != model_ || moved.channel != channel_) return;
    // What was read may be newer than the events that come after it.
    if (latest_ && moved.generation <= latest_->generation) return;
    latest_ = {model_, channel_, moved.version, moved.generation, moved.wall_ms, moved.canary};
}

}  // namespace

Result<std::unique_ptr<ChannelWatch>> watch_channel(const ClientOptions& options,
                                                    const std::string& model,
                                                    const std::string& channel) {
    WEIGHTCAST_TRY(HttpAddress address, parse_http_address(options.url, options.token));
    try {
        return std::make_unique<HttpWatch>(options, std::move(address), model, channel);
    } catch (const std::exception& failed) {
        return Error{Code::io, 0, fmt::format("registry {}: {}", options.url, failed.what())};
    }
}

}  // namespace weightcast::registry
