// Goal: reads over shm give the holder's bytes, or say why not, whatever the holder does.
// Method: holders are forked processes that the test revokes, truncates, stops and kills.
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "tests/kit/catch.h"
#include "tests/unit/transport/holder_process.h"
#include "transport/open.h"
#include "transport/shm/address.h"

namespace weightcast::test {
namespace {

using fabric::Read;
using fabric::ReadStatus;
using fabric::ReadTag;
using transport::open_shm;

constexpr std::size_t kBytes = 5U << 20U;

struct Reader {
    explicit Reader(std::uint32_t progress_ms_max = 20000) : memory(kBytes) {
        fabric::FabricOptions options;
        options.incarnation = random_identity();
        options.progress_ms_max = progress_ms_max;
        auto opened = open_shm(options);
        REQUIRE_OK(opened);
        shm = std::move(opened).value();
        auto made = shm->register_memory({memory, -1, 0, false}, fabric::Access::local);
        REQUIRE_OK(made);
        local = std::move(made).value();
    }
    ReadStatus read(fabric::LinkId link, const fabric::RegionKey& key, std::uint64_t offset,
                    std::uint64_t bytes) {
        std::fill(memory.begin(), memory.end(), std::byte{0});
        const Read one{link, key, offset, local.get(), 0, bytes, ReadTag(7)};
        shm->submit({&one, 1});
        const auto done = finish(*shm, 1);
        REQUIRE(done.size() == 1);
        REQUIRE(done[0].tag == ReadTag(7));
        return done[0].status;
    }
    bool has_pattern(std::uint64_t seed, std::uint64_t offset, std::uint64_t bytes) const {
        for (std::uint64_t i = 0; i < bytes; ++i) {
            if (memory[i] != pattern(seed, offset + i)) return false;
        }
        return true;
    }

    std::vector<std::byte> memory;
    std::unique_ptr<fabric::Fabric> shm;
    std::unique_ptr<fabric::Region> local;
};

TEST_CASE("shm reads every kind of memory byte for byte, at any offset") {
    const auto kind = GENERATE(MemoryKind::memfd, MemoryKind::file, MemoryKind::process);
    const std::size_t hidden = GENERATE(0U, 4096U, 13U);
    const HolderProcess holder(open_shm, kind, 11, kBytes, hidden);
    Reader reader;
    REQUIRE(reader.shm->can_reach(holder.peer().address));
    const auto link = reader.shm->connect(holder.peer());
    const std::size_t size = kBytes - hidden;
    CHECK(reader.read(link, holder.key(), 0, size) == ReadStatus::ok);
    CHECK(reader.has_pattern(11, hidden, size));
    CHECK(reader.read(link, holder.key(), 12345, 67891) == ReadStatus::ok);
    CHECK(reader.has_pattern(11, hidden + 12345, 67891));
    CHECK(reader.read(link, holder.key(), size - 1, 1) == ReadStatus::ok);
    CHECK(reader.has_pattern(11, hidden + size - 1, 1));
    CHECK(reader.shm->link_error(link).empty());
}

TEST_CASE("shm refuses ranges outside the region, and keys that do not exist") {
    const HolderProcess holder(open_shm, MemoryKind::memfd, 1, kBytes, 4096);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    const std::uint64_t size = kBytes - 4096;
    CHECK(reader.read(link, holder.key(), size, 1) == ReadStatus::access_denied);
    CHECK(reader.read(link, holder.key(), size - 1, 2) == ReadStatus::access_denied);
    CHECK(reader.read(link, holder.key(), ~0ULL - 3, 8) == ReadStatus::access_denied);
    auto wrong = holder.key();
    wrong[0] ^= std::byte{1};
    CHECK(reader.read(link, wrong, 0, 1) == ReadStatus::access_denied);
    CHECK(reader.read(link, {}, 0, 1) == ReadStatus::access_denied);
    CHECK(reader.read(link, holder.key(), 0, 1) == ReadStatus::ok);
}

TEST_CASE("a revoked region is denied on an open link, and on a new one") {
    const auto kind = GENERATE(MemoryKind::memfd, MemoryKind::file, MemoryKind::process);
    HolderProcess holder(open_shm, kind, 2, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::ok);
    holder.revoke();
    CHECK(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::access_denied);
    CHECK(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::access_denied);
    const auto second = reader.shm->connect(holder.peer());
    CHECK(reader.read(second, holder.key(), 0, 1) == ReadStatus::access_denied);
}

TEST_CASE("a region revoked in the midst of a read is denied") {
    HolderProcess holder(open_shm, MemoryKind::memfd, 2, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, 1) == ReadStatus::ok);
    const Read whole{link, holder.key(), 0, reader.local.get(), 0, kBytes, ReadTag(3)};
    reader.shm->submit({&whole, 1});
    fabric::Completion none;
    REQUIRE(reader.shm->poll({&none, 1}) == 0);
    holder.revoke();
    CHECK(finish(*reader.shm, 1).at(0).status == ReadStatus::access_denied);
}

TEST_CASE("after the holder was killed reads are unreachable, on its link and on a new one") {
    const auto kind = GENERATE(MemoryKind::memfd, MemoryKind::process);
    HolderProcess holder(open_shm, kind, 3, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::ok);
    holder.kill();
    CHECK(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::unreachable);
    CHECK_FALSE(reader.shm->link_error(link).empty());
    const auto second = reader.shm->connect(holder.peer());
    CHECK(reader.read(second, holder.key(), 0, kBytes) == ReadStatus::unreachable);
}

TEST_CASE("a truncated file and unmapped memory are faults of the holder") {
    const auto kind = GENERATE(MemoryKind::file, MemoryKind::process);
    HolderProcess holder(open_shm, kind, 4, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::ok);
    if (kind == MemoryKind::file) {
        holder.truncate();
    } else {
        holder.unmap();
    }
    CHECK(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::remote_fault);
    if (kind == MemoryKind::file) {
        CHECK(reader.read(link, holder.key(), 0, kBytes / 2) == ReadStatus::ok);
        CHECK(reader.has_pattern(4, 0, kBytes / 2));
    }
}

TEST_CASE("another incarnation at the address is stale") {
    const HolderProcess holder(open_shm, MemoryKind::memfd, 5, kBytes);
    Reader reader;
    auto peer = holder.peer();
    peer.incarnation[3] ^= std::byte{1};
    const auto link = reader.shm->connect(peer);
    CHECK(reader.read(link, holder.key(), 0, 1) == ReadStatus::stale_peer);
    CHECK(reader.shm->link_error(link).find("incarnation") != std::string::npos);
}

TEST_CASE("a stopped holder is read on an open link and times out on a new one") {
    HolderProcess holder(open_shm, MemoryKind::memfd, 6, kBytes);
    Reader reader(50);
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, 1) == ReadStatus::ok);
    holder.stop();
    CHECK(reader.read(link, holder.key(), 0, kBytes) == ReadStatus::ok);
    CHECK(reader.has_pattern(6, 0, kBytes));
    const auto second = reader.shm->connect(holder.peer());
    CHECK(reader.read(second, holder.key(), 0, 1) == ReadStatus::timed_out);
    auto unknown = holder.key();
    unknown[0] ^= std::byte{1};
    CHECK(reader.read(link, unknown, 0, 1) == ReadStatus::timed_out);
    CHECK_FALSE(reader.shm->map_region(second, holder.key()).has_value());
}

TEST_CASE("addresses of another boot or namespace, and other text, cannot be reached") {
    const Reader reader;
    const std::string own = reader.shm->address();
    CHECK(reader.shm->can_reach(own));
    std::string other = own;
    other[6] = other[6] == '0' ? '1' : '0';
    CHECK_FALSE(reader.shm->can_reach(other));
    for (const char* text : {"", "shm://", "tcp://127.0.0.1:1", "shm://x/y"}) {
        CHECK_FALSE(reader.shm->can_reach(text));
        CHECK_FALSE(transport::shm::Address::parse(text));
    }
    CHECK_FALSE(reader.shm->can_reach(own + "0"));
    const auto link = reader.shm->connect({other, {}});
    CHECK(reader.shm->link_error(link).find(other) != std::string::npos);
}

TEST_CASE("disconnect cancels what is queued, each once") {
    const HolderProcess holder(open_shm, MemoryKind::memfd, 8, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, 1) == ReadStatus::ok);
    std::vector<Read> reads;
    for (std::uint64_t i = 0; i < 20; ++i) {
        reads.push_back({link, holder.key(), 0, reader.local.get(), 0, kBytes, ReadTag(i)});
    }
    reader.shm->submit(reads);
    reader.shm->disconnect(link);
    auto done = finish(*reader.shm, reads.size());
    REQUIRE(done.size() == reads.size());
    std::sort(done.begin(), done.end(), [](auto a, auto b) { return a.tag < b.tag; });
    for (std::uint64_t i = 0; i < 20; ++i) {
        CHECK(done[i].tag == ReadTag(i));
        CHECK(done[i].status == ReadStatus::cancelled);
    }
    CHECK(reader.read(link, holder.key(), 0, 1) == ReadStatus::unreachable);
}

TEST_CASE("more reads than fit one poll complete, each once, with their bytes") {
    const HolderProcess holder(open_shm, MemoryKind::memfd, 9, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    std::vector<Read> reads;
    constexpr std::uint64_t kPiece = 4099;
    for (std::uint64_t at = 0; at + kPiece <= kBytes; at += kPiece) {
        reads.push_back({link, holder.key(), at, reader.local.get(), at, kPiece, ReadTag(at)});
    }
    reader.shm->submit(reads);
    const auto done = finish(*reader.shm, reads.size());
    REQUIRE(done.size() == reads.size());
    std::vector<std::uint64_t> tags;
    for (const auto& one : done) {
        CHECK(one.status == ReadStatus::ok);
        tags.push_back(one.tag.value);
    }
    std::sort(tags.begin(), tags.end());
    CHECK(std::unique(tags.begin(), tags.end()) == tags.end());
    CHECK(reader.has_pattern(9, 0, kBytes / kPiece * kPiece));
}

TEST_CASE("wait_fd is readable while copies are queued, and not when all is done") {
    const HolderProcess holder(open_shm, MemoryKind::memfd, 9, kBytes);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    REQUIRE(reader.read(link, holder.key(), 0, 1) == ReadStatus::ok);
    ::pollfd wait{reader.shm->wait_fd(), POLLIN, 0};
    CHECK(::poll(&wait, 1, 0) == 0);
    const Read one{link, holder.key(), 0, reader.local.get(), 0, 1, ReadTag(1)};
    reader.shm->submit({&one, 1});
    CHECK(::poll(&wait, 1, 0) == 1);
    CHECK(finish(*reader.shm, 1).size() == 1);
    CHECK(::poll(&wait, 1, 0) == 0);
}

TEST_CASE("map_region gives the holder's own pages, read-only, that outlive it") {
    HolderProcess holder(open_shm, MemoryKind::memfd, 10, kBytes, 4096);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    auto mapped = reader.shm->map_region(link, holder.key());
    REQUIRE_OK(mapped);
    const auto pages = mapped.value().span();
    REQUIRE(pages.size() == kBytes - 4096);
    CHECK(pages[0] == pattern(10, 4096));
    CHECK(pages[pages.size() - 1] == pattern(10, kBytes - 1));
    CHECK(::mprotect(pages.data(), 4096, PROT_READ | PROT_WRITE) == -1);
    holder.kill();
    CHECK(pages[77] == pattern(10, 4096 + 77));
}

TEST_CASE("memory that is not whole shared pages cannot be mapped") {
    const auto kind = GENERATE(MemoryKind::memfd, MemoryKind::file, MemoryKind::process);
    const HolderProcess holder(open_shm, kind, 10, kBytes, 13);
    Reader reader;
    const auto link = reader.shm->connect(holder.peer());
    const auto mapped = reader.shm->map_region(link, holder.key());
    REQUIRE(mapped.has_error());
    CHECK(mapped.error().code == Code::unavailable);
}

}  // namespace
}  // namespace weightcast::test
