// Goal: the small shared types keep their contracts. Method: call them.
#include <cerrno>

#include "base/forward.h"
#include "base/hex.h"
#include "base/mapping.h"
#include "base/random.h"
#include "base/shared_object.h"
#include "base/unique_fd.h"
#include "tests/kit/catch.h"
#include "weightcast/result.h"

namespace weightcast {
namespace {

Result<int> half(int value) {
    if (value % 2 != 0) return Error{Code::invalid_input, 0, "odd"};
    return value / 2;
}

Result<int> quarter(int value) {
    WEIGHTCAST_TRY(const int once, half(value));
    WEIGHTCAST_CHECK(half(once));
    return half(once);
}

TEST_CASE("result hands the first error up") {
    CHECK(quarter(8).value() == 2);
    REQUIRE(quarter(6).has_error());
    CHECK(quarter(6).error().message == "odd");
}

TEST_CASE("system errors carry a code by what the caller can do, and the system's text") {
    CHECK(system_error(ENOSPC, "write x").code == Code::no_space);
    CHECK(system_error(ENOENT, "open x").code == Code::not_found);
    CHECK(system_error(EIO, "read x").message == "read x: Input/output error");
}

TEST_CASE("hex goes there and back and refuses what is not hex") {
    const auto bytes = from_hex("00ff7a");
    REQUIRE(bytes);
    CHECK(to_hex(*bytes) == "00ff7a");
    CHECK_FALSE(from_hex("0"));
    CHECK_FALSE(from_hex("0G"));
    CHECK_FALSE(from_hex("FF"));
}

TEST_CASE("a library that is not there, and a function that it lacks, are told by name") {
    const auto none = SharedObject::open("libnowhere.so.1");
    REQUIRE(none.has_error());
    CHECK(none.error().code == Code::unavailable);
    CHECK(none.error().message.find("libnowhere.so.1") != std::string::npos);

    // Every program has it loaded already.
    constexpr const char* kLibc = "libc.so.6";
    CHECK(load_functions(kLibc, [](const SharedObject& library) -> const char* {
        int (*absolute)(int) = nullptr;
        return library.find("abs", absolute) && absolute(-3) == 3 ? nullptr : "abs";
    }));
    const auto lacking =
        load_functions(kLibc, [](const SharedObject&) -> const char* { return "ibv_nothing"; });
    REQUIRE(lacking.has_error());
    CHECK(lacking.error().message == "libc.so.6 has no ibv_nothing");
}

TEST_CASE("random below stays below and repeats with its seed") {
    Random a(7);
    Random b(7);
    for (int i = 0; i < 1000; ++i) {
        const auto value = a.below(13);
        CHECK(value < 13);
        CHECK(value == b.below(13));
    }
}

TEST_CASE("shared memory is visible through a second mapping") {
    auto memory = SharedMemory::create("test", 8192);
    REQUIRE_OK(memory);
    auto second = Mapping::map_file(memory.value().fd.get(), 4096, 4096, false);
    REQUIRE_OK(second);
    memory.value().pages.data()[4096] = std::byte{42};
    CHECK(second.value().data()[0] == std::byte{42});
}

TEST_CASE("shared memory larger than the address space is an error that names the size") {
    const auto memory = SharedMemory::create("test", std::size_t{1} << 62U);
    REQUIRE(memory.has_error());
    CHECK(memory.error().message.find("4611686018427387904") != std::string::npos);
}

}  // namespace
}  // namespace weightcast
