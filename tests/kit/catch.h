// Catch2, whichever major version the system ships (2.13 has one header, 3 has another).
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

// Requires a Result to hold a value, and shows the error's message if it does not.
#define REQUIRE_OK(result)                                             \
    do {                                                               \
        const auto& kit_result = (result);                             \
        if (!kit_result.has_value()) FAIL(kit_result.error().message); \
    } while (false)
