// Goal: a directory gets a version whole or not at all, and an attempt that died goes on. Method:
// store chunks by hand, drop the destination in the middle, plant what a crash could leave behind.
#include "agent/destination.h"

#include <filesystem>
#include <numeric>

#include "agent/publish.h"
#include "tests/kit/catch.h"
#include "tests/kit/scratch.h"

namespace weightcast::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kChunk = 65536;

struct Fixture {
    kit::Scratch scratch;
    NamedManifest named;
    std::string big = kit::noise(3 * kChunk + 100, 1);
    std::string small = kit::noise(500, 2);

    Fixture() {
        scratch.write("src/a/big.bin", big);
        scratch.write("src/small.txt", small);
        scratch.write("src/empty", "");
        const std::vector<std::string> paths{scratch.path("src")};
        auto draft = draft_from_files(paths, {.model = "m", .chunk_bytes = kChunk});
        REQUIRE_OK(draft);
        named = name_manifest(std::move(draft.value().manifest), 1);
    }

    Result<std::unique_ptr<Destination>> open(bool replace = false) {
        DirectoryOptions options;
        options.replace = replace;
        options.wanted.resize(named.manifest->layout.chunk_count());
        std::iota(options.wanted.begin(), options.wanted.end(), 0U);
        return open_directory(scratch.path("out"), named.manifest, named.name, options);
    }

    std::span<const std::byte> chunk(std::uint32_t number) const {
        const auto range = named.manifest->layout.chunk_range(number);
        const std::string& path = named.manifest->artifacts[range.artifact].path;
        const std::string& text = path == "a/big.bin" ? big : small;
        return std::as_bytes(std::span(text)).subspan(range.offset, range.bytes);
    }

    void store_rest(Destination& destination) {
        for (std::uint32_t i = 0; i < named.manifest->layout.chunk_count(); ++i) {
            REQUIRE_OK(destination.store(i, chunk(i)));
        }
    }

    void check_whole() {
        CHECK(scratch.read("out/a/big.bin") == big);
        CHECK(scratch.read("out/small.txt") == small);
        CHECK(fs::file_size(scratch.path("out/empty")) == 0);
        CHECK_FALSE(scratch.exists("out/.weightcast-partial"));
        CHECK_FALSE(scratch.exists(".out.weightcast-new"));
    }
};

TEST_CASE("a directory shows nothing of a version before the commit, and all of it after") {
    Fixture f;
    {
        auto destination = f.open();
        REQUIRE_OK(destination);
        f.store_rest(*destination.value());
        CHECK_FALSE(f.scratch.exists("out/small.txt"));
        REQUIRE_OK(destination.value()->commit());
    }
    f.check_whole();
}

TEST_CASE("chunks stored before a crash are present afterwards, if their bytes are right") {
    Fixture f;
    {
        auto destination = f.open();
        REQUIRE_OK(destination);
        REQUIRE_OK(destination.value()->store(0, f.chunk(0)));
        REQUIRE_OK(destination.value()->store(2, f.chunk(2)));
    }
    std::fstream(f.scratch.path("out/.weightcast-partial/files/a/big.bin"),
                 std::ios::in | std::ios::out | std::ios::binary)
            .seekp(2 * kChunk + 5)
        << "damage";
    auto destination = f.open();
    REQUIRE_OK(destination);
    CHECK(destination.value()->present() == std::vector<std::uint32_t>{0});
}

TEST_CASE("a stage of another version is not mixed in") {
    Fixture f;
    {
        auto destination = f.open();
        REQUIRE_OK(destination);
        REQUIRE_OK(destination.value()->store(0, f.chunk(0)));
    }
    f.named = name_manifest(*f.named.manifest, 2);
    auto destination = f.open();
    REQUIRE_OK(destination);
    CHECK(destination.value()->present().empty());
}

TEST_CASE("a complete directory needs nothing") {
    Fixture f;
    fs::copy(f.scratch.path("src"), f.scratch.path("out"), fs::copy_options::recursive);
    auto destination = f.open();
    REQUIRE_OK(destination);
    CHECK(destination.value()->present().size() == f.named.manifest->layout.chunk_count());
    REQUIRE_OK(destination.value()->commit());
    f.check_whole();
}

TEST_CASE("files of others are neither touched nor removed unless that is asked for") {
    Fixture f;
    f.scratch.write("out/precious.txt", "mine");
    const auto refused = f.open();
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == Code::invalid_input);
    CHECK(refused.error().message.find("precious.txt") != std::string::npos);
    CHECK(f.scratch.read("out/precious.txt") == "mine");
    auto destination = f.open(true);
    REQUIRE_OK(destination);
    f.store_rest(*destination.value());
    REQUIRE_OK(destination.value()->commit());
    f.check_whole();
    CHECK_FALSE(f.scratch.exists("out/precious.txt"));
}

TEST_CASE("a file that differs is refused and named, and its right chunks are reused on replace") {
    Fixture f;
    fs::copy(f.scratch.path("src"), f.scratch.path("out"), fs::copy_options::recursive);
    std::string changed = f.big;
    changed[kChunk + 1] ^= 1;
    f.scratch.write("out/a/big.bin", changed);
    const auto refused = f.open();
    REQUIRE(refused.has_error());
    CHECK(refused.error().message.find("a/big.bin") != std::string::npos);
    auto destination = f.open(true);
    REQUIRE_OK(destination);
    CHECK(destination.value()->present().size() == f.named.manifest->layout.chunk_count() - 1);
    f.store_rest(*destination.value());
    REQUIRE_OK(destination.value()->commit());
    f.check_whole();
}

TEST_CASE("a file that goes on behind the version's end is not cut short") {
    Fixture f;
    fs::copy(f.scratch.path("src"), f.scratch.path("out"), fs::copy_options::recursive);
    f.scratch.write("out/small.txt", f.small + "more");
    const auto refused = f.open();
    REQUIRE(refused.has_error());
    CHECK(refused.error().message.find("small.txt") != std::string::npos);
    CHECK(f.scratch.read("out/small.txt") == f.small + "more");
}

TEST_CASE("two pulls into one directory do not meet") {
    Fixture f;
    auto first = f.open();
    REQUIRE_OK(first);
    const auto second = f.open();
    REQUIRE(second.has_error());
    CHECK(second.error().code == Code::conflict);
}

TEST_CASE("a crash between the two renames of a commit leaves the old state, to be gone on with") {
    Fixture f;
    {
        auto destination = f.open();
        REQUIRE_OK(destination);
        f.store_rest(*destination.value());
    }
    fs::rename(f.scratch.path("out/.weightcast-partial/files"),
               f.scratch.path(".out.weightcast-new"));
    auto destination = f.open();
    REQUIRE_OK(destination);
    CHECK(destination.value()->present().size() == f.named.manifest->layout.chunk_count());
    REQUIRE_OK(destination.value()->commit());
    f.check_whole();
}

TEST_CASE("a crash after the swap leaves the new state, and its rest is cleaned up") {
    Fixture f;
    fs::copy(f.scratch.path("src"), f.scratch.path("out"), fs::copy_options::recursive);
    f.scratch.write(".out.weightcast-new/.weightcast-partial/journal", "old");
    auto destination = f.open();
    REQUIRE_OK(destination);
    CHECK(destination.value()->present().size() == f.named.manifest->layout.chunk_count());
    f.check_whole();
}

TEST_CASE("a symbolic link planted in the stage is not followed") {
    Fixture f;
    { REQUIRE_OK(f.open()); }
    f.scratch.write("victim", "safe");
    const std::string staged = f.scratch.path("out/.weightcast-partial/files/small.txt");
    fs::remove(staged);
    fs::create_symlink(f.scratch.path("victim"), staged);
    CHECK(f.open().has_error());
    CHECK(f.scratch.read("victim") == "safe");
}

TEST_CASE("memory destinations give every chunk its place") {
    Fixture f;
    auto memory = MemoryDestination::create_in(nullptr, {}, f.named.manifest);
    REQUIRE_OK(memory);
    f.store_rest(*memory.value());
    const auto view = memory.value()->view(0, kChunk, 50);
    CHECK(std::equal(view.begin(), view.end(), f.chunk(1).begin()));
}

}  // namespace
}  // namespace weightcast::agent
