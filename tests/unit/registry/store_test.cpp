// Goal: what was acknowledged survives, what was not is absent or whole, and a broken disk stops
// the acknowledging. Method: real directories; a kill is a copy of the directory as it was at that
// moment; a full disk is the page limit, a failing one RLIMIT_FSIZE.
#include "registry/store.h"

#include <sqlite3.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/hex.h"
#include "base/random.h"
#include "registry/service.h"
#include "tests/kit/catch.h"
#include "tests/unit/registry/samples.h"

namespace weightcast::registry {
namespace {

namespace fs = std::filesystem;

class Directory {
  public:
    Directory()
        : path_(fs::temp_directory_path() / ("weightcast-store-" + to_hex(random_identity()))) {
        fs::create_directory(path_);
    }
    ~Directory() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
    std::string operator/(const std::string& name) const { return (path_ / name).string(); }

  private:
    fs::path path_;
};

// No file of this process can grow beyond `bytes` while it lives.
class FileSizeLimit {
  public:
    explicit FileSizeLimit(rlim_t bytes) {
        std::signal(SIGXFSZ, SIG_IGN);
        REQUIRE(::getrlimit(RLIMIT_FSIZE, &before_) == 0);
        const rlimit limit{bytes, before_.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    }
    ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;

  private:
    rlimit before_{};
};

std::unique_ptr<Store> open(const std::string& directory, std::uint64_t bytes_max = 0) {
    auto store = open_sqlite_store({directory, bytes_max});
    REQUIRE_OK(store);
    return std::move(store).value();
}

std::unique_ptr<Service> serve(std::unique_ptr<Store> store, const std::string& boot = "boot") {
    auto service = Service::create({}, std::move(store), system_clock(), boot, 1);
    REQUIRE_OK(service);
    return std::move(service).value();
}

PeerRef join(Service& service, const std::string& name) {
    const auto lease = service.register_peer(sample_peer(name));
    REQUIRE_OK(lease);
    return lease.value().peer;
}

Result<PublishReply> publish(Service& service, const PeerRef& peer, std::uint64_t number,
                             const std::string& text, const std::string& channel = "stable") {
    WEIGHTCAST_CHECK(service.put_manifest(model::sha256(bytes_of(text)), bytes_of(text)));
    return service.publish(sample_publish(peer, number, text, channel));
}

TEST_CASE("store keeps versions, channels, history, manifests and its cluster id") {
    const Directory directory;
    const std::uint64_t large = ~std::uint64_t{0};
    std::string cluster;
    {
        const auto service = serve(open(directory / "s"));
        const PeerRef peer = join(*service, "a");
        REQUIRE_OK(publish(*service, peer, 1, "one"));
        REQUIRE_OK(publish(*service, peer, large, "large"));
        REQUIRE_OK(service->set_channel({"m", "stable", 1, 2, "me", "back"}));
        cluster = service->cluster().value().cluster_id;
    }
    const auto service = serve(open(directory / "s"), "boot-2");
    CHECK(service->cluster().value().cluster_id == cluster);
    CHECK(service->cluster().value().boot_epoch == "boot-2");
    const auto models = service->list_models().value();
    REQUIRE(models.size() == 1);
    REQUIRE(models[0].versions.size() == 2);
    CHECK(models[0].versions[0].publisher == "a");
    CHECK(models[0].versions[1].version == large);
    CHECK(models[0].versions[1].manifest == model::sha256(bytes_of("large")));
    REQUIRE(models[0].channels.size() == 1);
    CHECK(models[0].channels[0].version == 1);
    CHECK(models[0].channels[0].generation == 3);
    const auto history = service->history("m", "stable", 2).value();
    REQUIRE(history.size() == 2);
    CHECK(history[0].channel.version == large);
    CHECK(history[1].why == "back");
    CHECK(service->get_manifest(model::sha256(bytes_of("one"))).value().size() == 3);
    // Peers are not durable, and what is published is still immutable.
    const PeerRef peer = join(*service, "b");
    CHECK_FALSE(publish(*service, peer, 1, "one").value().created);
    CHECK(publish(*service, peer, 1, "other").error().code == Code::conflict);
    const auto other = serve(open(directory / "t"));
    CHECK(other->cluster().value().cluster_id != cluster);
}

TEST_CASE("publish is absent before its commit and complete after it, a retry is idempotent") {
    const Directory directory;
    const auto service = serve(open(directory / "live"));
    const PeerRef peer = join(*service, "a");
    const std::string text = "one";
    REQUIRE_OK(service->put_manifest(model::sha256(bytes_of(text)), bytes_of(text)));
    fs::copy(directory / "live", directory / "before");
    REQUIRE_OK(service->publish(sample_publish(peer, 1, text, "stable")));
    fs::copy(directory / "live", directory / "after");

    const auto before = serve(open(directory / "before"));
    CHECK(before->list_models().value().empty());
    const auto retried = publish(*before, join(*before, "a"), 1, text);
    REQUIRE_OK(retried);
    CHECK(retried.value().created);
    CHECK(retried.value().generation == 1);

    const auto after = serve(open(directory / "after"));
    REQUIRE(after->list_models().value().size() == 1);
    const auto repeated = publish(*after, join(*after, "a"), 1, text);
    REQUIRE_OK(repeated);
    CHECK_FALSE(repeated.value().created);
    CHECK(repeated.value().generation == 1);
}

TEST_CASE("log that was cut anywhere in a commit gives all of it or nothing") {
    const Directory directory;
    const auto service = serve(open(directory / "live"));
    const PeerRef peer = join(*service, "a");
    const std::string text = "one";
    REQUIRE_OK(service->put_manifest(model::sha256(bytes_of(text)), bytes_of(text)));
    const auto first = fs::file_size(directory / "live/registry.sqlite-wal");
    REQUIRE_OK(service->publish(sample_publish(peer, 1, text, "stable")));
    const auto last = fs::file_size(directory / "live/registry.sqlite-wal");
    REQUIRE(last > first);
    int absent = 0;
    for (auto cut = first; cut <= last; cut += 1500) {
        const std::string copy = directory / ("cut" + std::to_string(cut));
        fs::copy(directory / "live", copy);
        fs::resize_file(copy + "/registry.sqlite-wal", std::min(cut, last));
        const auto revived = serve(open(copy));
        const auto models = revived->list_models().value();
        if (models.empty()) {
            ++absent;
            continue;
        }
        CHECK(models[0].versions.size() == 1);
        CHECK(models[0].channels.size() == 1);
    }
    CHECK(absent > 0);
}

TEST_CASE("store is open to one registry at a time") {
    const Directory directory;
    auto first = open(directory / "s");
    const auto second = open_sqlite_store({directory / "s", 0});
    REQUIRE(second.has_error());
    CHECK(second.error().code == Code::conflict);
    CHECK(second.error().message.find(directory / "s") != std::string::npos);
    first.reset();
    open(directory / "s");
}

TEST_CASE("full disk is an error that names the path, and passes once there is room") {
    const Directory directory;
    const std::string blob(1U << 20U, 'x');
    const auto name = model::sha256(bytes_of(blob));
    {
        const auto store = open(directory / "s", 200000);
        const auto full = store->put_manifest(name, bytes_of(blob));
        REQUIRE(full.has_error());
        CHECK(full.error().code == Code::no_space);
        CHECK(full.error().message.find(directory / "s") != std::string::npos);
        CHECK_FALSE(store->failed());
        CHECK(store->get_manifest(name).error().code == Code::not_found);
        REQUIRE_OK(store->put_manifest(model::sha256(bytes_of("small")), bytes_of("small")));
    }
    REQUIRE_OK(open(directory / "s")->put_manifest(name, bytes_of(blob)));
}

TEST_CASE("failed write stops the registry: nothing is acknowledged any more, nor lost") {
    const Directory directory;
    {
        const auto service = serve(open(directory / "s"));
        const PeerRef peer = join(*service, "a");
        REQUIRE_OK(publish(*service, peer, 1, "one"));
        const std::string blob(1U << 20U, 'x');
        const auto name = model::sha256(bytes_of(blob));
        {
            const FileSizeLimit limit(300000);
            CHECK(service->put_manifest(name, bytes_of(blob)).error().code == Code::io);
        }
        CHECK(service->put_manifest(name, bytes_of(blob)).error().code == Code::unavailable);
        CHECK(service->heartbeat({peer, {}}).error().code == Code::unavailable);
        CHECK(service->cluster().error().code == Code::unavailable);
    }
    const auto service = serve(open(directory / "s"));
    REQUIRE(service->list_models().value().size() == 1);
    CHECK(service->list_models().value()[0].versions.size() == 1);
}

TEST_CASE("a canary is kept, and a store of the first schema is brought up to date") {
    const Directory directory;
    {
        const auto service = serve(open(directory / "s"));
        const PeerRef peer = join(*service, "a");
        REQUIRE_OK(publish(*service, peer, 1, "one"));
        REQUIRE_OK(publish(*service, peer, 2, "two"));
    }
    sqlite3* raw = nullptr;
    REQUIRE(sqlite3_open((directory / "s/registry.sqlite").c_str(), &raw) == SQLITE_OK);
    CHECK(sqlite3_exec(raw,
                       "ALTER TABLE channel_moves DROP COLUMN canary; ALTER TABLE versions DROP "
                       "COLUMN retired;"
                       "PRAGMA user_version=1",
                       nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(raw);
    const Canary canary{2, 10, {{"ring", "0"}}};
    {
        const auto service = serve(open(directory / "s"));
        CHECK_FALSE(service->list_models().value()[0].channels[0].canary);
        REQUIRE_OK(service->set_channel({"m", "stable", 1, 2, "me", "trial", canary}));
    }
    const auto service = serve(open(directory / "s"));
    const auto kept = service->list_models().value()[0].channels[0].canary;
    REQUIRE(kept);
    CHECK(kept->version == 2);
    CHECK(kept->percent == 10);
    CHECK(kept->labels == canary.labels);
    const auto history = service->history("m", "stable", 10).value();
    REQUIRE(history.size() == 3);
    CHECK_FALSE(history[1].channel.canary);
    CHECK(history[2].channel.canary);
}

TEST_CASE("file that is no store, or of a newer program, is refused") {
    const Directory directory;
    fs::create_directory(directory / "s");
    std::ofstream(directory / "s/registry.sqlite") << std::string(10000, 'z');
    CHECK(open_sqlite_store({directory / "s", 0}).error().code == Code::corrupt);
    open(directory / "t");
    sqlite3* raw = nullptr;
    REQUIRE(sqlite3_open((directory / "t/registry.sqlite").c_str(), &raw) == SQLITE_OK);
    CHECK(sqlite3_exec(raw, "PRAGMA user_version=99", nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(raw);
    const auto newer = open_sqlite_store({directory / "t", 0});
    REQUIRE(newer.has_error());
    CHECK(newer.error().message.find("99") != std::string::npos);
}

// A clock that stands at a time that is set.
class SetClock final : public Clock {
  public:
    TimePoint now() const override { return TimePoint(time); }
    std::uint64_t wall_ms() const override { return 1; }
    Duration time{};
};

TEST_CASE("a retired version is gone with its manifest, but its number is not free") {
    const Directory directory;
    const bool durable = GENERATE(false, true);
    CAPTURE(durable);
    SetClock clock;
    StateOptions options;
    options.versions_kept = 2;
    const auto serve_with = [&](std::unique_ptr<Store> store) {
        auto service = Service::create(options, std::move(store), clock, "boot", 1);
        REQUIRE_OK(service);
        return std::move(service).value();
    };
    const auto manifest_of = [](Service& service, const std::string& text) {
        return service.get_manifest(model::sha256(bytes_of(text)));
    };
    const auto check_gone = [&](Service& service, std::size_t living) {
        const auto known = service.find_model("m");
        REQUIRE_OK(known);
        CHECK(known.value().versions.size() == living);
        CHECK(manifest_of(service, "one").error().code == Code::not_found);
        REQUIRE_OK(manifest_of(service, "four"));
        PublishRequest other = sample_publish(join(service, "b"), 1, "other");
        other.root.bytes[1] = std::byte{1};
        REQUIRE_OK(service.put_manifest(other.manifest, bytes_of("other")));
        CHECK(service.publish(other).error().code == Code::conflict);
    };
    auto service = serve_with(durable ? open(directory / "s") : make_memory_store());
    const PeerRef peer = join(*service, "a");
    for (const char* text : {"one", "two", "three"}) {
        const auto number =
            service->find_model("m") ? service->find_model("m").value().versions.size() : 0;
        REQUIRE_OK(publish(*service, peer, number + 1, text));
    }
    // Peers that held something before a restart may not have said so yet.
    CHECK(service->find_model("m").value().versions.size() == 3);
    clock.time = std::chrono::minutes(1);
    REQUIRE_OK(publish(*service, join(*service, "later"), 4, "four"));
    check_gone(*service, 2);
    if (durable) {
        service.reset();
        service = serve_with(open(directory / "s"));
        check_gone(*service, 2);
    }
    REQUIRE_OK(publish(*service, join(*service, "b"), 1, "one"));
    CHECK(service->find_model("m").value().versions.size() == 3);
    REQUIRE_OK(manifest_of(*service, "one"));
    if (durable) {
        service.reset();
        service = serve_with(open(directory / "s"));
        CHECK(service->find_model("m").value().versions.size() == 3);
    }
}

}  // namespace
}  // namespace weightcast::registry
