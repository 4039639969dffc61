// Checks of invariants that stay on in release builds.
#pragma once

namespace weightcast {

// Prints the broken expression and aborts. Thread-safe.
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace weightcast

// For broken invariants of our own code only; foreign input gets an Error instead.
#define WEIGHTCAST_ASSERT(expression) \
    (static_cast<bool>(expression)    \
         ? static_cast<void>(0)       \
         : ::weightcast::assertion_failed(#expression, __FILE__, __LINE__))
