// Goal: no move of a channel is missed, whatever happens to the registry or to the connection, and
// nobody at the other end can make a watch hang or grow. Method: a server on a free loopback port;
// a fake one that says what a test has it say. A wait that must end in time is much too long.
#include "registry/watch.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <string>
#include <thread>
#include <vector>

#include "base/socket.h"
#include "base/unique_fd.h"
#include "registry/json.h"
#include "registry/server.h"
#include "tests/kit/catch.h"
#include "tests/kit/scratch.h"
#include "tests/unit/registry/samples.h"

namespace weightcast::registry {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLong{60000};
constexpr milliseconds kShort{50};

std::unique_ptr<Server> start_server(const ServerOptions& options) {
    auto server = Server::start(options);
    REQUIRE_OK(server);
    return std::move(server).value();
}

std::unique_ptr<ChannelWatch> watch_stable(const ClientOptions& options) {
    auto watch = watch_channel(options, "m", "stable");
    REQUIRE_OK(watch);
    return std::move(watch).value();
}

// A registry with the versions 1 to 3 of model m, and no channel.
class LiveRegistry {
  public:
    explicit LiveRegistry(ServerOptions options = {}) : options_(std::move(options)) {
        options_.listen = "127.0.0.1:0";
        start();
        const auto lease = api_->register_peer(sample_peer("source"));
        REQUIRE_OK(lease);
        for (std::uint64_t number = 1; number <= 3; ++number) {
            const std::string manifest = "manifest " + std::to_string(number);
            const auto request = sample_publish(lease.value().peer, number, manifest);
            REQUIRE_OK(api_->put_manifest(request.manifest, bytes_of(manifest)));
            REQUIRE_OK(api_->publish(request));
        }
    }

    std::string url() const { return server_->url(); }
    void stop() {
        options_.listen = url().substr(std::string("http://").size());
        server_.reset();
    }
    void start() {
        server_ = start_server(options_);
        auto api = connect({.url = url(), .token = options_.token});
        REQUIRE_OK(api);
        api_ = std::move(api).value();
    }
    std::uint64_t move(std::uint64_t version, const std::string& channel = "stable") {
        const auto moved = api_->set_channel({"m", channel, version, {}, "me", "why"});
        REQUIRE_OK(moved);
        return moved.value().generation;
    }

  private:
    ServerOptions options_;
    std::unique_ptr<Server> server_;
    std::unique_ptr<Api> api_;
};

ChannelInfo must_tell(ChannelWatch& watch, std::uint64_t known) {
    const auto told = watch.next(known, kLong);
    REQUIRE_OK(told);
    INFO(watch.trouble());
    REQUIRE(told.value().has_value());
    CHECK(watch.trouble().empty());
    return *told.value();
}

void must_not_tell(ChannelWatch& watch, std::uint64_t known) {
    const auto told = watch.next(known, kShort);
    REQUIRE_OK(told);
    CHECK_FALSE(told.value().has_value());
}

TEST_CASE("watch tells where a channel is, and each move of it") {
    LiveRegistry live;
    REQUIRE(live.move(1) == 1);
    const auto watch = watch_stable({.url = live.url()});
    const ChannelInfo first = must_tell(*watch, 0);
    CHECK(first.model == "m");
    CHECK(first.channel == "stable");
    CHECK(first.version == 1);
    CHECK(first.generation == 1);
    CHECK(first.wall_ms > 0);
    must_not_tell(*watch, 1);
    for (const std::uint64_t version : {3U, 1U, 2U}) {
        const std::uint64_t generation = live.move(version);
        const ChannelInfo moved = must_tell(*watch, generation - 1);
        CHECK(moved.version == version);
        CHECK(moved.generation == generation);
        CHECK(moved.wall_ms >= first.wall_ms);
    }
    CHECK(must_tell(*watch, 7).generation == 4);
}

TEST_CASE("watch waits for a channel that does not exist yet") {
    LiveRegistry live;
    const auto watch = watch_stable({.url = live.url()});
    must_not_tell(*watch, 0);
    std::thread mover([&live] { live.move(2); });
    CHECK(must_tell(*watch, 0).version == 2);
    mover.join();
}

TEST_CASE("watch tells only the latest of the moves before it was connected") {
    LiveRegistry live;
    for (const std::uint64_t version : {1U, 2U, 3U}) live.move(version);
    const auto watch = watch_stable({.url = live.url()});
    CHECK(must_tell(*watch, 0).generation == 3);
    must_not_tell(*watch, 3);
}

TEST_CASE("watch tells of the moves between its calls") {
    LiveRegistry live;
    const auto watch = watch_stable({.url = live.url()});
    must_not_tell(*watch, 0);
    for (const std::uint64_t version : {1U, 2U, 3U}) live.move(version);
    std::uint64_t known = 0;
    while (known < 3) {
        const std::uint64_t generation = must_tell(*watch, known).generation;
        REQUIRE(generation > known);
        known = generation;
    }
    must_not_tell(*watch, known);
}

TEST_CASE("watch tells nothing of other channels") {
    LiveRegistry live;
    live.move(1);
    const auto watch = watch_stable({.url = live.url()});
    CHECK(must_tell(*watch, 0).generation == 1);
    for (const std::uint64_t version : {1U, 2U, 3U}) live.move(version, "canary");
    must_not_tell(*watch, 1);
    live.move(2);
    const ChannelInfo moved = must_tell(*watch, 1);
    CHECK(moved.channel == "stable");
    CHECK(moved.generation == 2);
}

TEST_CASE("watch finds a registry again that was restarted, and what moved since") {
    const kit::Scratch scratch;
    ServerOptions options;
    options.store_directory = scratch.path("store");
    LiveRegistry live(options);
    live.move(1);
    const auto watch = watch_stable({.url = live.url()});
    CHECK(must_tell(*watch, 0).generation == 1);
    live.stop();
    while (watch->trouble().empty()) must_not_tell(*watch, 1);
    live.start();
    CHECK(must_tell(*watch, 0).generation == 1);

    live.stop();
    live.start();
    live.move(3);
    const ChannelInfo moved = must_tell(*watch, 1);
    CHECK(moved.version == 3);
    CHECK(moved.generation == 2);
}

TEST_CASE("watch that is cancelled fails, now and from now on") {
    LiveRegistry live;
    const auto must_be_cancelled = [](ChannelWatch& watch) {
        const auto told = watch.next(0, kLong);
        REQUIRE(told.has_error());
        CHECK(told.error().code == Code::cancelled);
    };
    SECTION("before") {
        live.move(1);
        const auto watch = watch_stable({.url = live.url()});
        watch->cancel();
        watch->cancel();
        must_be_cancelled(*watch);
        must_be_cancelled(*watch);
    }
    SECTION("while it waits, at any moment") {
        for (int turn = 0; turn < 20; ++turn) {
            const auto watch = watch_stable({.url = live.url()});
            if (turn % 2 == 0) must_not_tell(*watch, 0);
            std::thread other([&watch] { watch->cancel(); });
            must_be_cancelled(*watch);
            other.join();
        }
    }
    SECTION("without a registry") {
        const auto watch = watch_stable({.url = live.url()});
        live.stop();
        must_not_tell(*watch, 0);
        CHECK_FALSE(watch->trouble().empty());
        std::thread other([&watch] { watch->cancel(); });
        must_be_cancelled(*watch);
        other.join();
    }
}

TEST_CASE("watch with a wrong token is refused, with the right one it is not") {
    ServerOptions options;
    options.token = "secret";
    LiveRegistry live(options);
    live.move(1);
    CHECK(must_tell(*watch_stable({.url = live.url(), .token = "secret"}), 0).generation == 1);
    for (const char* token : {"", "secre"}) {
        const auto watch = watch_stable({.url = live.url(), .token = token});
        for (int call = 0; call < 2; ++call) {
            const auto told = watch->next(0, kLong);
            REQUIRE(told.has_error());
            CHECK(told.error().code == Code::refused);
            CHECK(told.error().message.find("bearer token") != std::string::npos);
            CHECK_FALSE(watch->trouble().empty());
        }
    }
}

TEST_CASE("client and watch find a registry by its host's name") {
    LiveRegistry live;
    live.move(1);
    const std::string url = "http://localhost" + live.url().substr(live.url().rfind(':'));
    const auto api = connect({.url = url});
    REQUIRE_OK(api);
    REQUIRE_OK(api.value()->cluster());
    CHECK(must_tell(*watch_stable({.url = url}), 0).generation == 1);
}

TEST_CASE("watch refuses what is no registry's URL") {
    for (const char* url : {"", "https://h:1", "http://h", "http://h:1/p"}) {
        INFO(url);
        CHECK(watch_channel({.url = url}, "m", "stable").error().code == Code::invalid_input);
    }
}

// Says `head` to whoever asks for events. Then, of each of `turns`, answers a reading of the
// channel, and goes on with the events. A stream ends when the client closes it; with the next one
// the last turn comes again.
class FakeRegistry {
  public:
    struct Turn {
        std::string history;
        std::string events;
        bool endless = false;  // the last byte of `events` again and again
    };

    static constexpr const char* kHead =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

    FakeRegistry(std::string head, std::vector<Turn> turns)
        : head_(std::move(head)), turns_(std::move(turns)) {
        auto listener = listen_on("127.0.0.1:0");
        REQUIRE_OK(listener);
        listener_ = std::move(listener.value().socket);
        REQUIRE(::fcntl(listener_.get(), F_SETFL, 0) == 0);
        url_ = "http://" + format_address(listener.value().address);
        thread_ = std::thread([this] { serve(); });
    }
    ~FakeRegistry() {
        ::shutdown(listener_.get(), SHUT_RDWR);
        thread_.join();
    }
    FakeRegistry(const FakeRegistry&) = delete;
    FakeRegistry& operator=(const FakeRegistry&) = delete;

    const std::string& url() const { return url_; }

  private:
    static bool say(const UniqueFd& to, const std::string& text) {
        return ::send(to.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(text.size());
    }
    // The next connection that asks for `method`; the others are closed.
    UniqueFd accept(const std::string& method) {
        for (;;) {
            UniqueFd client(::accept(listener_.get(), nullptr, nullptr));
            if (!client) return client;
            char first[4096];
            const ssize_t got = ::recv(client.get(), first, sizeof first, 0);
            if (got > 0 && std::string(first, static_cast<std::size_t>(got)).starts_with(method)) {
                return client;
            }
        }
    }
    void serve() {
        std::size_t turn = 0;
        while (const UniqueFd events = accept("GET")) {
            bool open = say(events, head_);
            while (open && turn < turns_.size()) {
                const Turn& now = turns_[turn++];
                const UniqueFd reading = accept("POST");
                if (!reading) return;
                say(reading, "HTTP/1.1 200 OK\r\nContent-Length: " +
                                 std::to_string(now.history.size()) + "\r\n\r\n" + now.history);
                open = say(events, now.events);
                while (now.endless && say(events, std::string(4096, now.events.back()))) continue;
            }
            char last = 0;
            while (::recv(events.get(), &last, 1, 0) > 0) continue;
            if (turn > 0) --turn;
        }
    }

    const std::string head_;
    const std::vector<Turn> turns_;
    UniqueFd listener_;
    std::string url_;
    std::thread thread_;
};

std::string at_generation(std::uint64_t generation) {
    return encode(History{{{{"m", "stable", 1, generation, 5}, "", ""}}});
}

TEST_CASE("watch reads the channel again when it may have missed a move") {
    const std::string joined = "event: peer_joined\ndata: {}\n\n";
    std::string missed;
    SECTION("numbers without the ones between") {
        missed = "id: 5\n" + joined + "id: 7\n" + joined;
    }
    SECTION("resync") { missed = "id: 5\nevent: resync\ndata: {}\n\n"; }
    SECTION("no number") { missed = joined; }
    SECTION("a move that cannot be read") {
        missed = "id: 5\nevent: channel_moved\ndata: {\"model\":\n\n";
    }
    FakeRegistry fake(FakeRegistry::kHead, {{at_generation(1), missed}, {at_generation(9), ""}});
    const auto watch = watch_stable({.url = fake.url()});
    std::uint64_t known = must_tell(*watch, 0).generation;
    if (known == 1) known = must_tell(*watch, known).generation;
    CHECK(known == 9);
}

TEST_CASE("watch takes no older move for a newer one") {
    const auto moved = [](std::uint64_t sequence, std::uint64_t generation) {
        return "id: " + std::to_string(sequence) + "\nevent: channel_moved\ndata: " +
               encode(Event{.sequence = sequence,
                            .model = "m",
                            .version = 2,
                            .channel = "stable",
                            .generation = generation}) +
               "\n\n";
    };
    FakeRegistry fake(FakeRegistry::kHead,
                      {{at_generation(4), moved(1, 3) + moved(2, 4) + moved(3, 5)}});
    const auto watch = watch_stable({.url = fake.url()});
    std::uint64_t known = must_tell(*watch, 0).generation;
    CHECK(known >= 4);
    if (known == 4) known = must_tell(*watch, known).generation;
    CHECK(known == 5);
}

// Calls next() until there is trouble with the registry, and says which.
std::string trouble_of(const FakeRegistry& fake) {
    const auto watch = watch_stable({.url = fake.url(), .call_ms_max = 500});
    while (watch->trouble().empty()) {
        const auto told = watch->next(0, kShort);
        REQUIRE_OK(told);
        REQUIRE_FALSE(told.value().has_value());
    }
    return watch->trouble();
}

TEST_CASE("watch is neither held up nor filled up by a hostile server") {
    const auto has = [](const std::string& text, const std::string& part) {
        INFO(text);
        CHECK(text.find(part) != std::string::npos);
    };
    const std::string none = encode(History{});
    SECTION("half a head") { has(trouble_of({"HTTP/1.1 200 OK\r\nX", {}}), "no answer within"); }
    SECTION("a head without an end") {
        has(trouble_of({"HTTP/1.1 200 OK\r\nX: " + std::string(100000, 'x'), {}}), "header limit");
    }
    SECTION("another status") {
        has(trouble_of({"HTTP/1.1 503 x\r\nContent-Length: 4\r\n\r\nbusy", {}}), "busy");
    }
    SECTION("another kind of content") {
        has(trouble_of({"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", {}}), "text/html");
    }
    SECTION("a line without an end") {
        has(trouble_of({FakeRegistry::kHead, {{none, "data: a", true}}}), "65536 bytes");
    }
    SECTION("a chunk without an end") {
        const std::string chunked =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            "Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n";
        has(trouble_of({chunked, {{none, "data: a", true}}}), "65536 bytes");
    }
    SECTION("a channel that cannot be read") {
        has(trouble_of({FakeRegistry::kHead, {{"{}", ""}}}), "moves is missing");
    }
    SECTION("a channel that is no answer") {
        has(trouble_of({FakeRegistry::kHead, {{"", "\n"}}}), "not a registry's answer");
    }
    SECTION("empty lines without an end") {
        FakeRegistry fake(FakeRegistry::kHead, {{none, "\n", true}});
        const auto watch = watch_stable({.url = fake.url()});
        must_not_tell(*watch, 0);
        must_not_tell(*watch, 0);
    }
}

}  // namespace
}  // namespace weightcast::registry
