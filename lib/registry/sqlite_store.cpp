// The store on SQLite: write-ahead log, one connection, and an fsync before every commit returns.
#include <fcntl.h>
#include <fmt/core.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include "base/hex.h"
#include "base/random.h"
#include "base/unique_fd.h"
#include "registry/json.h"
#include "registry/store.h"

namespace weightcast::registry {
namespace {

constexpr int kSchemaVersion = 3;
constexpr std::uint64_t kPageBytes = 4096;

constexpr const char* kSchema = R"(
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE versions(
    model TEXT NOT NULL, version INTEGER NOT NULL, manifest BLOB NOT NULL,
    manifest_bytes INTEGER NOT NULL, root BLOB NOT NULL, bytes INTEGER NOT NULL,
    chunk_count INTEGER NOT NULL, bucket_count INTEGER NOT NULL,
    published_wall_ms INTEGER NOT NULL, publisher TEXT NOT NULL, quarantined INTEGER NOT NULL,
    retired INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(model, version)) STRICT, WITHOUT ROWID;
CREATE TABLE channel_moves(
    model TEXT NOT NULL, channel TEXT NOT NULL, generation INTEGER NOT NULL,
    version INTEGER NOT NULL, wall_ms INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
    canary TEXT NOT NULL DEFAULT '',
    PRIMARY KEY(model, channel, generation)) STRICT, WITHOUT ROWID;
CREATE TABLE manifests(name BLOB PRIMARY KEY, encoded BLOB NOT NULL) STRICT;
)";

// From each schema to the next, the first from version 1.
constexpr std::array<const char*, kSchemaVersion - 1> kMigrations{
    "BEGIN IMMEDIATE; ALTER TABLE channel_moves ADD COLUMN canary TEXT NOT NULL DEFAULT '';"
    "PRAGMA user_version=2; COMMIT",
    "BEGIN IMMEDIATE; ALTER TABLE versions ADD COLUMN retired INTEGER NOT NULL DEFAULT 0;"
    "PRAGMA user_version=3; COMMIT"};

struct Closer {
    void operator()(sqlite3* connection) const { sqlite3_close_v2(connection); }
};
struct Finalizer {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Connection = std::unique_ptr<sqlite3, Closer>;
using Prepared = std::unique_ptr<sqlite3_stmt, Finalizer>;

// As the table has it: JSON, or nothing. Errors: corrupt.
Result<std::optional<Canary>> canary_of(const std::string& text) {
    if (text.empty()) return std::optional<Canary>();
    auto canary = decode<Canary>(text);
    if (canary) return std::optional(std::move(canary).value());
    return Error{Code::corrupt, 0,
                 fmt::format("a canary in the store: {}", canary.error().message)};
}

// A statement that is bound from the left and read from the left. The first failure stays.
class Statement {
  public:
    Statement(sqlite3* connection, const char* sql) {
        sqlite3_stmt* raw = nullptr;
        status_ = sqlite3_prepare_v2(connection, sql, -1, &raw, nullptr);
        prepared_.reset(raw);
    }

    Statement& bind(std::uint64_t value) {
        return keep(
            sqlite3_bind_int64(prepared_.get(), ++bound_, static_cast<sqlite3_int64>(value)));
    }
    Statement& bind(const std::string& text) {
        return keep(sqlite3_bind_text64(prepared_.get(), ++bound_, text.data(), text.size(),
                                        SQLITE_STATIC, SQLITE_UTF8));
    }
    // The bytes must stay until the last step.
    Statement& bind(std::span<const std::byte> bytes) {
        static constexpr std::byte kNone{};
        return keep(sqlite3_bind_blob64(prepared_.get(), ++bound_,
                                        bytes.empty() ? &kNone : bytes.data(), bytes.size(),
                                        SQLITE_STATIC));
    }

    // SQLITE_ROW, SQLITE_DONE or a failure.
    int step() {
        column_ = 0;
        if (status_ == SQLITE_OK || status_ == SQLITE_ROW) {
            status_ = sqlite3_step(prepared_.get());
        }
        return status_;
    }

    std::uint64_t integer() {
        return static_cast<std::uint64_t>(sqlite3_column_int64(prepared_.get(), column_++));
    }
    std::string text() {
        const auto bytes = blob();
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    std::span<const std::byte> blob() {
        const void* const data = sqlite3_column_blob(prepared_.get(), column_);
        const int bytes = sqlite3_column_bytes(prepared_.get(), column_++);
        return {static_cast<const std::byte*>(data), static_cast<std::size_t>(bytes)};
    }
    template <std::size_t kBytes>
    void array(std::array<std::byte, kBytes>& to) {
        const auto bytes = blob();
        if (bytes.size() == kBytes) std::copy(bytes.begin(), bytes.end(), to.begin());
    }

  private:
    Statement& keep(int status) {
        if (status_ == SQLITE_OK) status_ = status;
        return *this;
    }

    Prepared prepared_;
    int status_ = SQLITE_OK;
    int bound_ = 0;
    int column_ = 0;
};

class SqliteStore final : public Store {
  public:
    SqliteStore(UniqueFd lock, Connection connection, std::string path)
        : lock_(std::move(lock)), connection_(std::move(connection)), path_(std::move(path)) {}

    Result<void> prepare(const StoreOptions& options);

    const std::string& cluster_id() const override { return cluster_id_; }
    Result<std::vector<Change>> load() override;
    Result<void> commit(std::span<const Change> changes) override;
    Result<std::vector<ChannelMoved>> history(const std::string& model, const std::string& channel,
                                              std::size_t count_max) override;
    Result<void> put_manifest(const model::Sha256& name,
                              std::span<const std::byte> encoded) override;
    Result<std::vector<std::byte>> get_manifest(const model::Sha256& name) override;
    Result<std::uint64_t> manifest_bytes(const model::Sha256& name) override;
    StoreStats stats() const override { return stats_; }
    bool failed() const override { return failed_; }

  private:
    Statement statement(const char* sql) { return {connection_.get(), sql}; }
    Result<void> execute(const char* sql, const char* doing);
    // The error of the last failed SQLite call.
    Error last_error(const char* doing) const;
    // Ends a transaction that could not be written, and stops the store unless the disk was full.
    Error give_up(const char* doing);
    Result<void> usable() const;
    int insert(const Change& change);
    template <typename Write>
    Result<void> transact(const char* doing, Write&& write);

    UniqueFd lock_;
    Connection connection_;
    std::string path_;
    std::string cluster_id_;
    StoreStats stats_;
    bool failed_ = false;
};

Error SqliteStore::last_error(const char* doing) const {
    const int status = sqlite3_errcode(connection_.get());
    const Code code = status == SQLITE_FULL || status == SQLITE_NOMEM       ? Code::no_space
                      : status == SQLITE_CORRUPT || status == SQLITE_NOTADB ? Code::corrupt
                      : status == SQLITE_BUSY                               ? Code::conflict
                                                                            : Code::io;
    const int sys_errno = sqlite3_system_errno(connection_.get());
    std::string message = fmt::format("{} {}: {}", doing, path_, sqlite3_errmsg(connection_.get()));
    if (sys_errno == 0 || code != Code::io) return {code, 0, std::move(message)};
    return system_error(code, sys_errno, std::move(message));
}

Result<void> SqliteStore::execute(const char* sql, const char* doing) {
    if (sqlite3_exec(connection_.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK) {
        return success();
    }
    return last_error(doing);
}

Result<void> SqliteStore::usable() const {
    if (!failed_) return success();
    return Error{Code::unavailable, 0,
                 fmt::format("{} failed before, nothing is written any more", path_)};
}

Error SqliteStore::give_up(const char* doing) {
    Error error = last_error(doing);
    const bool rolled_back =
        sqlite3_get_autocommit(connection_.get()) != 0 ||
        sqlite3_exec(connection_.get(), "ROLLBACK", nullptr, nullptr, nullptr) == SQLITE_OK;
    failed_ = error.code != Code::no_space || !rolled_back;
    return error;
}

template <typename Write>
Result<void> SqliteStore::transact(const char* doing, Write&& write) {
    WEIGHTCAST_CHECK(usable());
    if (!execute("BEGIN IMMEDIATE", doing)) return give_up(doing);
    if (write() != SQLITE_DONE) return give_up(doing);
    if (!execute("COMMIT", doing)) return give_up(doing);
    ++stats_.commits;
    return success();
}

// Makes the schema, or checks it, and reads the cluster id.
Result<void> SqliteStore::prepare(const StoreOptions& options) {
    WEIGHTCAST_CHECK(
        execute("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
                "PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                "PRAGMA trusted_schema=OFF",
                "open"));
    if (options.bytes_max != 0) {
        const std::string pages =
            fmt::format("PRAGMA max_page_count={}", options.bytes_max / kPageBytes);
        WEIGHTCAST_CHECK(execute(pages.c_str(), "limit"));
    }
    Statement version = statement("PRAGMA user_version");
    if (version.step() != SQLITE_ROW) return last_error("read");
    const std::uint64_t found = version.integer();
    version = statement("SELECT 1");
    if (found > kSchemaVersion) {
        return Error{Code::corrupt, 0,
                     fmt::format("{} has schema version {}, this program knows version {}", path_,
                                 found, kSchemaVersion)};
    }
    for (std::size_t from = found; from > 0 && from < kSchemaVersion; ++from) {
        WEIGHTCAST_CHECK(execute(kMigrations[from - 1], "bring to the present schema"));
    }
    if (found == 0) {
        const std::string id = to_hex(random_identity());
        const std::string sql = fmt::format(
            "BEGIN IMMEDIATE; {} INSERT INTO meta VALUES('cluster_id','{}');"
            "PRAGMA user_version={}; COMMIT",
            kSchema, id, kSchemaVersion);
        WEIGHTCAST_CHECK(execute(sql.c_str(), "make the schema of"));
    }
    Statement meta = statement("SELECT value FROM meta WHERE key='cluster_id'");
    if (meta.step() != SQLITE_ROW) {
        return Error{Code::corrupt, 0, fmt::format("{} has no cluster id", path_)};
    }
    cluster_id_ = meta.text();
    return success();
}

Result<std::vector<Change>> SqliteStore::load() {
    std::vector<Change> changes;
    Statement versions = statement(
        "SELECT model, version, manifest, manifest_bytes, root, bytes, chunk_count, bucket_count,"
        " published_wall_ms, publisher, quarantined, retired FROM versions");
    int status = SQLITE_ROW;
    while ((status = versions.step()) == SQLITE_ROW) {
        VersionInfo info;
        info.model = versions.text();
        info.version = versions.integer();
        versions.array(info.manifest.bytes);
        info.manifest_bytes = versions.integer();
        versions.array(info.root.bytes);
        info.bytes = versions.integer();
        info.chunk_count = versions.integer();
        info.bucket_count = versions.integer();
        info.published_wall_ms = versions.integer();
        info.publisher = versions.text();
        info.quarantined = versions.integer() != 0;
        if (versions.integer() != 0) {
            changes.emplace_back(VersionRetired{info.model, info.version, info.root});
        } else {
            changes.emplace_back(VersionPublished{std::move(info)});
        }
    }
    if (status != SQLITE_DONE) return last_error("read");
    Statement moves = statement(
        "SELECT model, channel, version, max(generation), wall_ms, who, why, canary"
        " FROM channel_moves GROUP BY model, channel");
    while ((status = moves.step()) == SQLITE_ROW) {
        ChannelMoved moved;
        moved.channel.model = moves.text();
        moved.channel.channel = moves.text();
        moved.channel.version = moves.integer();
        moved.channel.generation = moves.integer();
        moved.channel.wall_ms = moves.integer();
        moved.who = moves.text();
        moved.why = moves.text();
        WEIGHTCAST_TRY(moved.channel.canary, canary_of(moves.text()));
        changes.emplace_back(std::move(moved));
    }
    if (status != SQLITE_DONE) return last_error("read");
    return changes;
}

// SQLITE_DONE, or a failure.
int SqliteStore::insert(const Change& change) {
    if (const auto* published = std::get_if<VersionPublished>(&change)) {
        const VersionInfo& info = published->version;
        return statement("INSERT OR REPLACE INTO versions VALUES(?,?,?,?,?,?,?,?,?,?,?,0)")
            .bind(info.model)
            .bind(info.version)
            .bind(info.manifest.bytes)
            .bind(info.manifest_bytes)
            .bind(info.root.bytes)
            .bind(info.bytes)
            .bind(info.chunk_count)
            .bind(info.bucket_count)
            .bind(info.published_wall_ms)
            .bind(info.publisher)
            .bind(std::uint64_t{info.quarantined})
            .step();
    }
    if (const auto* moved = std::get_if<ChannelMoved>(&change)) {
        return statement("INSERT INTO channel_moves VALUES(?,?,?,?,?,?,?,?)")
            .bind(moved->channel.model)
            .bind(moved->channel.channel)
            .bind(moved->channel.generation)
            .bind(moved->channel.version)
            .bind(moved->channel.wall_ms)
            .bind(moved->who)
            .bind(moved->why)
            .bind(moved->channel.canary ? encode(*moved->channel.canary) : std::string())
            .step();
    }
    if (const auto* retired = std::get_if<VersionRetired>(&change)) {
        // A manifest has its version in it, so it is of no other one.
        const int status = statement(
                               "DELETE FROM manifests WHERE name="
                               "(SELECT manifest FROM versions WHERE model=? AND version=?)")
                               .bind(retired->model)
                               .bind(retired->version)
                               .step();
        if (status != SQLITE_DONE) return status;
        return statement("UPDATE versions SET retired=1 WHERE model=? AND version=?")
            .bind(retired->model)
            .bind(retired->version)
            .step();
    }
    const auto& set = std::get<QuarantineSet>(change);
    return statement("UPDATE versions SET quarantined=? WHERE model=? AND version=?")
        .bind(std::uint64_t{set.quarantined})
        .bind(set.model)
        .bind(set.version)
        .step();
}

Result<void> SqliteStore::commit(std::span<const Change> changes) {
    WEIGHTCAST_CHECK(transact("write", [&] {
        for (const Change& change : changes) {
            if (const int status = insert(change); status != SQLITE_DONE) return status;
        }
        return SQLITE_DONE;
    }));
    stats_.changes += changes.size();
    return success();
}

Result<std::vector<ChannelMoved>> SqliteStore::history(const std::string& model,
                                                       const std::string& channel,
                                                       std::size_t count_max) {
    std::vector<ChannelMoved> moves;
    Statement rows = statement(
        "SELECT version, generation, wall_ms, who, why, canary FROM (SELECT * FROM channel_moves"
        " WHERE model=? AND channel=? ORDER BY generation DESC LIMIT ?) ORDER BY generation");
    rows.bind(model).bind(channel).bind(std::uint64_t{count_max});
    int status = SQLITE_ROW;
    while ((status = rows.step()) == SQLITE_ROW) {
        ChannelMoved& moved = moves.emplace_back();
        moved.channel.model = model;
        moved.channel.channel = channel;
        moved.channel.version = rows.integer();
        moved.channel.generation = rows.integer();
        moved.channel.wall_ms = rows.integer();
        moved.who = rows.text();
        moved.why = rows.text();
        WEIGHTCAST_TRY(moved.channel.canary, canary_of(rows.text()));
    }
    if (status != SQLITE_DONE) return last_error("read");
    return moves;
}

Result<void> SqliteStore::put_manifest(const model::Sha256& name,
                                       std::span<const std::byte> encoded) {
    WEIGHTCAST_CHECK(transact("write", [&] {
        return statement("INSERT OR IGNORE INTO manifests VALUES(?,?)")
            .bind(name.bytes)
            .bind(encoded)
            .step();
    }));
    stats_.manifest_bytes += encoded.size();
    return success();
}

Result<std::vector<std::byte>> SqliteStore::get_manifest(const model::Sha256& name) {
    Statement row = statement("SELECT encoded FROM manifests WHERE name=?");
    const int status = row.bind(name.bytes).step();
    if (status == SQLITE_DONE) {
        return Error{Code::not_found, 0, "there is no manifest " + model::to_string(name)};
    }
    if (status != SQLITE_ROW) return last_error("read");
    const auto bytes = row.blob();
    return std::vector<std::byte>(bytes.begin(), bytes.end());
}

Result<std::uint64_t> SqliteStore::manifest_bytes(const model::Sha256& name) {
    Statement row = statement("SELECT length(encoded) FROM manifests WHERE name=?");
    const int status = row.bind(name.bytes).step();
    if (status == SQLITE_DONE) {
        return Error{Code::not_found, 0, "there is no manifest " + model::to_string(name)};
    }
    if (status != SQLITE_ROW) return last_error("read");
    return row.integer();
}

// Held as long as the store is open; the kernel lets go of it when the process dies.
Result<UniqueFd> lock_directory(const std::string& directory) {
    const std::string path = directory + "/registry.lock";
    UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock) return system_error(errno, "open " + path);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
    if (errno != EWOULDBLOCK) return system_error(errno, "lock " + path);
    return Error{Code::conflict, 0, "another registry has the store " + directory + " open"};
}

}  // namespace

Result<std::unique_ptr<Store>> open_sqlite_store(const StoreOptions& options) {
    std::error_code failure;
    const bool made = std::filesystem::create_directories(options.directory, failure);
    if (failure) return system_error(failure.value(), "make directory " + options.directory);
    if (made && ::chmod(options.directory.c_str(), 0700) != 0) {
        return system_error(errno, "set the mode of " + options.directory);
    }
    WEIGHTCAST_TRY(UniqueFd lock, lock_directory(options.directory));
    const std::string path = options.directory + "/registry.sqlite";
    sqlite3* raw = nullptr;
    const int status =
        sqlite3_open_v2(path.c_str(), &raw,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
    Connection connection(raw);
    if (status != SQLITE_OK) {
        return Error{Code::io, 0, fmt::format("open {}: {}", path, sqlite3_errstr(status))};
    }
    auto store = std::make_unique<SqliteStore>(std::move(lock), std::move(connection), path);
    WEIGHTCAST_CHECK(store->prepare(options));
    return store;
}

}  // namespace weightcast::registry
