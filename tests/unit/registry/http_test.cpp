// Goal: every call works over HTTP, and no client can harm the server. Method: a server on a free
// loopback port, talked to by the client and by raw sockets.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "registry/client.h"
#include "registry/json.h"
#include "registry/server.h"
#include "tests/kit/catch.h"
#include "tests/unit/registry/samples.h"

namespace weightcast::registry {
namespace {

ServerOptions free_port() {
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    return options;
}

std::unique_ptr<Server> serve(const ServerOptions& options) {
    auto server = Server::start(options);
    REQUIRE_OK(server);
    return std::move(server).value();
}

std::unique_ptr<Api> client_of(const Server& server, const std::string& token = "") {
    auto client = connect({.url = server.url(), .token = token});
    REQUIRE_OK(client);
    return std::move(client).value();
}

// A blocking socket to the server. Reads give up after ten seconds, so that a broken server fails
// the test instead of hanging it.
class Raw {
  public:
    explicit Raw(const Server& server) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        const std::string& url = server.url();
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port =
            htons(static_cast<std::uint16_t>(std::stoi(url.substr(url.rfind(':') + 1))));
        const timeval limit{10, 0};
        REQUIRE(::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
        REQUIRE(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
                0);
    }
    // False if the server has closed.
    bool send(const std::string& text) const {
        return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(text.size());
    }
    // Until `mark` was read or the server closed.
    std::string read_until(const std::string& mark) {
        char byte = 0;
        std::string text;
        while (mark.empty() || text.find(mark) == std::string::npos) {
            const ssize_t got = ::recv(fd_.get(), &byte, 1, 0);
            if (got == 0 || (got < 0 && errno == ECONNRESET)) break;
            REQUIRE(got == 1);
            text += byte;
        }
        return text;
    }
    std::string read_all() { return read_until(""); }

  private:
    UniqueFd fd_;
};

TEST_CASE("every call goes over HTTP") {
    const auto server = serve(free_port());
    const auto api = client_of(*server);
    const auto cluster = api->cluster();
    REQUIRE_OK(cluster);
    CHECK(cluster.value().protocol == kProtocolVersion);

    PeerInfo info = sample_peer("source");
    info.labels["rack"] = "r \"1\"\n";
    const auto lease = api->register_peer(info);
    REQUIRE_OK(lease);
    CHECK(lease.value().cluster.boot_epoch == cluster.value().boot_epoch);
    const PeerRef source = lease.value().peer;

    std::string manifest(100000, '\0');
    for (std::size_t i = 0; i < manifest.size(); ++i) manifest[i] = static_cast<char>(i * 7);
    const PublishRequest request = sample_publish(source, 1, manifest, "stable");
    const auto early = api->publish(request);
    REQUIRE(early.has_error());
    CHECK(early.error().code == Code::invalid_input);
    CHECK(api->put_manifest({}, bytes_of(manifest)).error().code == Code::invalid_input);
    REQUIRE_OK(api->put_manifest(request.manifest, bytes_of(manifest)));
    const auto published = api->publish(request);
    REQUIRE_OK(published);
    CHECK(published.value().created);
    CHECK(published.value().version.root == request.root);
    const auto got = api->get_manifest(request.manifest);
    REQUIRE_OK(got);
    CHECK(std::equal(got.value().begin(), got.value().end(), bytes_of(manifest).begin(),
                     bytes_of(manifest).end()));
    CHECK(api->get_manifest({}).error().code == Code::not_found);

    REQUIRE_OK(api->hold(source, sample_holding(1, true)));
    const PeerRef reader = api->register_peer(sample_peer("reader", 2)).value().peer;
    REQUIRE_OK(api->hold(reader, sample_holding(1, false)));
    const auto beat = api->heartbeat({reader, {{"m", 1, false, 500, "0700"}}});
    REQUIRE_OK(beat);
    CHECK(beat.value().lease_ms == 5000);
    const auto grant = api->open_pull(sample_pull(reader, ""));
    REQUIRE_OK(grant);
    REQUIRE(grant.value().holders.size() == 1);
    const HolderHint& hint = grant.value().holders[0];
    CHECK(hint.name == "source");
    CHECK(hint.incarnation == info.incarnation);
    CHECK(hint.addresses == info.addresses);
    CHECK(hint.holding.keys.at("tcp").regions == sample_holding(1, true).keys["tcp"].regions);
    CHECK(hint.holding.extents.at(0).offset == 64);
    REQUIRE_OK(api->renew_pull({reader, grant.value().pull, {source.id}, 4}));
    REQUIRE_OK(
        api->report({reader, source.id, "m", 1, ReportKind::corrupt, "chunk 1 of bucket 2"}));
    REQUIRE_OK(api->close_pull({reader, grant.value().pull, true, 1000, 0.5, 1.25}));

    const auto channel = api->set_channel({"m", "canary", 1, 0, "me", "try it"});
    REQUIRE_OK(channel);
    CHECK(channel.value().generation == 1);
    CHECK(api->set_channel({"m", "canary", 1, 0, "", ""}).error().code == Code::conflict);
    const auto models = api->list_models();
    REQUIRE_OK(models);
    REQUIRE(models.value().size() == 1);
    CHECK(api->find_model("m").value().channels.size() == 2);
    CHECK(api->find_model("n").error().code == Code::not_found);
    CHECK(models.value()[0].channels.size() == 2);
    REQUIRE_OK(api->drop({reader, "m", 1}));
    const auto peers = api->list_peers();
    REQUIRE_OK(peers);
    CHECK(peers.value().size() == 2);
    REQUIRE_OK(api->leave(reader));
    CHECK(api->heartbeat({reader, {}}).error().code == Code::stale);
}

TEST_CASE("a reader whose connection ends is out of the plan at once") {
    const auto server = serve(free_port());
    const auto api = client_of(*server);
    const PeerRef source = api->register_peer(sample_peer("source")).value().peer;
    const PublishRequest request = sample_publish(source, 1, "manifest", "stable");
    REQUIRE_OK(api->put_manifest(request.manifest, bytes_of("manifest")));
    REQUIRE_OK(api->publish(request));
    REQUIRE_OK(api->hold(source, sample_holding(1, true)));
    struct Reader {
        std::unique_ptr<Api> api;
        PeerRef peer;
        std::uint64_t pull = 0;
    };
    const auto open = [&](const std::string& name) {
        Reader reader{client_of(*server), {}, 0};
        reader.peer = reader.api->register_peer(sample_peer(name, 1, name)).value().peer;
        reader.pull = reader.api->open_pull(sample_pull(reader.peer)).value().pull;
        REQUIRE_OK(reader.api->hold(reader.peer, sample_holding(1, false)));
        return reader;
    };
    // Its parents in the plan; none while it is not planned.
    const auto parents = [](const Reader& reader) {
        const auto grant = reader.api->renew_pull({reader.peer, reader.pull, {}});
        REQUIRE_OK(grant);
        std::set<std::string> names;
        for (const HolderHint& hint : grant.value().holders) {
            if (!hint.stripes.empty()) names.insert(hint.name);
        }
        return names;
    };
    const std::set<std::string> both{"source", "dies"};
    const std::set<std::string> one{"source"};
    const Reader stays = open("stays");
    CHECK(parents(stays) == one);  // The answer comes when the plan is there.
    Reader dies = open("dies");
    const TimePoint late = system_clock().now() + std::chrono::seconds(20);
    while (parents(stays) != both && system_clock().now() < late) parents(dies);
    CHECK(parents(stays) == both);
    // With one of two connections nothing is lost.
    auto second = client_of(*server);
    REQUIRE_OK(second->heartbeat({dies.peer, {}}));
    dies.api.reset();
    for (int i = 0; i < 100; ++i) CHECK(parents(stays) == both);
    second.reset();
    while (parents(stays) != one && system_clock().now() < late) continue;
    CHECK(parents(stays) == one);
    const auto metrics = [&] {
        Raw raw(*server);
        REQUIRE(raw.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        return raw.read_all();
    };
    CHECK(metrics().find("readers_disconnected_total 1\n") != std::string::npos);
    // A connection that several peers use says nothing of them.
    const Reader other = open("other");
    while (parents(stays) == one && system_clock().now() < late) parents(other);
    auto proxy = client_of(*server);
    REQUIRE_OK(proxy->heartbeat({other.peer, {}}));
    REQUIRE_OK(proxy->heartbeat({stays.peer, {}}));
    REQUIRE_OK(proxy->heartbeat({other.peer, {}}));
    proxy.reset();
    for (int i = 0; i < 100; ++i) CHECK(parents(stays).contains("other"));
    CHECK(metrics().find("readers_disconnected_total 1\n") != std::string::npos);
    CHECK(api->list_peers().value().size() == 4);
}

TEST_CASE("large answers are compressed for those who take that") {
    const auto server = serve(free_port());
    const auto api = client_of(*server);
    for (int i = 0; i < 30; ++i) {
        REQUIRE_OK(api->register_peer(sample_peer("peer-" + std::to_string(i))));
    }
    CHECK(api->list_peers().value().size() == 30);
    const auto ask = [&](const std::string& codings) {
        Raw raw(*server);
        REQUIRE(raw.send("GET /v1/peers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + codings +
                         "\r\n"));
        return raw.read_all();
    };
    const std::string plain = ask("");
    const std::string packed = ask("Accept-Encoding: gzip, zstd\r\n");
    CHECK(plain.find("Content-Encoding") == std::string::npos);
    CHECK(packed.find("Content-Encoding: zstd") != std::string::npos);
    CHECK(packed.size() < plain.size() / 2);
    const std::string other = ask("Accept-Encoding: gzip, zstdx, identity\r\n");
    CHECK(other.find("Content-Encoding") == std::string::npos);
}

TEST_CASE("without the token nothing is answered but 401") {
    ServerOptions options = free_port();
    options.token = "secret";
    const auto server = serve(options);
    CHECK(client_of(*server)->cluster().error().code == Code::refused);
    CHECK(client_of(*server, "secre")->cluster().error().code == Code::refused);
    REQUIRE_OK(client_of(*server, "secret")->cluster());
    Raw raw(*server);
    REQUIRE(raw.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    CHECK(raw.read_all().starts_with("HTTP/1.1 401 "));
}

TEST_CASE("limits are answered by their name, and the healthy go on") {
    ServerOptions options = free_port();
    options.head_bytes_max = 1024;
    options.body_bytes_max = 2048;
    options.request_ms_max = 300;
    const auto server = serve(options);
    const auto healthy = client_of(*server);
    REQUIRE_OK(healthy->cluster());
    SECTION("head") {
        Raw raw(*server);
        REQUIRE(raw.send("GET / HTTP/1.1\r\nX: " + std::string(3000, 'a') + "\r\n\r\n"));
        const std::string reply = raw.read_all();
        CHECK(reply.starts_with("HTTP/1.1 431 "));
        CHECK(reply.find("head_bytes_max") != std::string::npos);
    }
    SECTION("declared body") {
        Raw raw(*server);
        REQUIRE(raw.send("PUT /v1/x HTTP/1.1\r\nContent-Length: 999999\r\n\r\n"));
        const std::string reply = raw.read_all();
        CHECK(reply.starts_with("HTTP/1.1 413 "));
        CHECK(reply.find("body_bytes_max") != std::string::npos);
    }
    SECTION("body in chunks") {
        Raw raw(*server);
        REQUIRE(raw.send("PUT /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" +
                         std::string(4096, 'a') + "\r\n"));
        CHECK(raw.read_all().starts_with("HTTP/1.1 413 "));
    }
    SECTION("garbage") {
        Raw raw(*server);
        REQUIRE(raw.send(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 13)));
        CHECK(raw.read_all().starts_with("HTTP/1.1 400 "));
    }
    SECTION("trickling head") {
        Raw raw(*server);
        REQUIRE(raw.send("GET / HTTP/1.1\r\nX"));
        CHECK(raw.read_all().empty());
    }
    SECTION("body that never ends") {
        Raw raw(*server);
        REQUIRE(raw.send("POST /v1/peers HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"));
        CHECK(raw.read_all().empty());
    }
    SECTION("client that goes away in the middle") {
        Raw(*server).send("POST /v1/peers HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
    }
    REQUIRE_OK(healthy->cluster());
}

TEST_CASE("connections are limited per host and in all") {
    ServerOptions options = free_port();
    const auto check_refused = [&options](const std::string& limit) {
        const auto server = serve(options);
        Raw first(*server);
        REQUIRE(first.send("GET /healthz HTTP/1.1\r\n\r\n"));
        CHECK(first.read_until("ok").find("200 OK") != std::string::npos);
        Raw second(*server);
        const std::string reply = second.read_all();
        CHECK(reply.starts_with("HTTP/1.1 503 "));
        CHECK(reply.find(limit) != std::string::npos);
        REQUIRE(first.send("GET /healthz HTTP/1.1\r\n\r\n"));
        CHECK(first.read_until("ok").find("200 OK") != std::string::npos);
    };
    SECTION("per host") {
        options.connections_per_host_max = 1;
        check_refused("connections_per_host_max");
    }
    SECTION("in all") {
        options.connections_max = 1;
        check_refused("connections_max");
    }
}

TEST_CASE("malformed bodies and unknown routes are errors by name") {
    const auto server = serve(free_port());
    const auto ask = [&server](const std::string& head, const std::string& body) {
        Raw raw(*server);
        REQUIRE(raw.send(head + " HTTP/1.1\r\nConnection: close\r\nContent-Length: " +
                         std::to_string(body.size()) + "\r\n\r\n" + body));
        return raw.read_all();
    };
    CHECK(ask("POST /v1/peers", "{").starts_with("HTTP/1.1 400 "));
    CHECK(ask("POST /v1/peers", R"({"name":"a"})").find("field host is missing") !=
          std::string::npos);
    CHECK(ask("GET /v1/nothing", "").starts_with("HTTP/1.1 404 "));
    CHECK(ask("DELETE /v1/peers", "").starts_with("HTTP/1.1 405 "));
    CHECK(ask("PUT /v1/manifests/xyz", "").starts_with("HTTP/1.1 400 "));
    const std::string metrics = ask("GET /metrics", "");
    CHECK(
        metrics.find("weightcast_registry_requests_total{route=\"/v1/peers\",status=\"400\"} 2") !=
        std::string::npos);
    CHECK(metrics.find("weightcast_registry_peers 0") != std::string::npos);
}

TEST_CASE("events come in order, can be resumed, and resync when they cannot") {
    const auto server = serve(free_port());
    const auto api = client_of(*server);
    Raw first(*server);
    REQUIRE(first.send("GET /v1/events HTTP/1.1\r\n\r\n"));
    CHECK(first.read_until("\r\n\r\n").find("text/event-stream") != std::string::npos);
    const PeerRef peer = api->register_peer(sample_peer("a")).value().peer;
    REQUIRE_OK(api->put_manifest(model::sha256(bytes_of("one")), bytes_of("one")));
    REQUIRE_OK(api->publish(sample_publish(peer, 1, "one", "stable")));
    REQUIRE_OK(api->leave(peer));
    const std::string joined = first.read_until("\n\n");
    CHECK(joined.find("event: peer_joined\n") != std::string::npos);
    CHECK(first.read_until("\n\n").find("event: version_published\n") != std::string::npos);
    CHECK(first.read_until("\n\n").find("event: channel_moved\n") != std::string::npos);
    CHECK(first.read_until("\n\n").find("event: peer_left\n") != std::string::npos);
    const std::string id = joined.substr(4, joined.find('\n') - 4);

    Raw resumed(*server);
    REQUIRE(resumed.send("GET /v1/events HTTP/1.1\r\nLast-Event-ID: " + id + "\r\n\r\n"));
    resumed.read_until("\r\n\r\n");
    CHECK(resumed.read_until("\n\n").find("event: version_published\n") != std::string::npos);
    Raw lost(*server);
    REQUIRE(lost.send("GET /v1/events HTTP/1.1\r\nLast-Event-ID: 3\r\n\r\n"));
    lost.read_until("\r\n\r\n");
    CHECK(lost.read_until("\n\n").find("event: resync\n") != std::string::npos);
}

TEST_CASE("client survives a registry that restarts, and names one that is not there") {
    auto options = free_port();
    auto server = serve(options);
    const auto api = client_of(*server);
    const auto before = api->cluster();
    REQUIRE_OK(before);
    options.listen = server->url().substr(7);
    server.reset();
    const auto gone = api->cluster();
    REQUIRE(gone.has_error());
    CHECK(gone.error().code == Code::unavailable);
    CHECK(gone.error().message.find(options.listen) != std::string::npos);
    server = serve(options);
    const auto after = api->cluster();
    REQUIRE_OK(after);
    CHECK(after.value().boot_epoch != before.value().boot_epoch);
    CHECK(after.value().cluster_id != before.value().cluster_id);
}

TEST_CASE("client gives up at its deadline on a registry that says nothing") {
    const UniqueFd silent(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    auto* const raw = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(silent.get(), raw, bytes) == 0);
    REQUIRE(::listen(silent.get(), 8) == 0);
    REQUIRE(::getsockname(silent.get(), raw, &bytes) == 0);
    const std::string url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    const auto api = connect({.url = url, .call_ms_max = 100});
    REQUIRE_OK(api);
    const auto answer = api.value()->cluster();
    REQUIRE(answer.has_error());
    CHECK(answer.error().code == Code::timed_out);
}

TEST_CASE("bad URLs and listen addresses are refused") {
    for (const char* url : {"", "x", "https://h:1", "http://h", "http://h:1/p", "http://h:0"}) {
        INFO(url);
        CHECK(connect({.url = url}).error().code == Code::invalid_input);
    }
    for (const char* listen : {"", "7070", ":7070", "127.0.0.1:", "127.0.0.1:99999"}) {
        INFO(listen);
        ServerOptions options;
        options.listen = listen;
        CHECK(Server::start(options).error().code == Code::invalid_input);
    }
    const auto server = serve(free_port());
    ServerOptions same;
    same.listen = server->url().substr(7);
    CHECK(Server::start(same).error().code == Code::io);
}

TEST_CASE("token file is read without white space, and refused if others may read it") {
    char name[] = "/tmp/weightcast_token_XXXXXX";
    const UniqueFd file(::mkstemp(name));
    REQUIRE(file);
    const std::string text = "  abc.DEF \n";
    REQUIRE(::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    CHECK(read_token_file(name).value() == "abc.DEF");
    REQUIRE(::fchmod(file.get(), 0640) == 0);
    CHECK(read_token_file(name).error().code == Code::invalid_input);
    REQUIRE(::unlink(name) == 0);
    CHECK(read_token_file(name).error().code == Code::not_found);
}

}  // namespace
}  // namespace weightcast::registry
