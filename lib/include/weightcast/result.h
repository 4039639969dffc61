// Result<T>: a value, or an Error that says what the caller can do about it.
#pragma once

#include <boost/outcome/basic_result.hpp>
#include <boost/outcome/policy/terminate.hpp>
#include <boost/outcome/success_failure.hpp>
#include <string>
#include <utility>

namespace weightcast {

// Named by what the caller can do.
enum class Code {
    invalid_input,  // The input is malformed or breaks a limit: fix it, a retry will not help.
    not_found,      // The named thing does not exist.
    conflict,       // Someone else was first, or the version is immutable: read again, decide anew.
    refused,        // Not authenticated, or not allowed.
    unavailable,    // The other side cannot be reached or is busy: retry later or elsewhere.
    timed_out,      // A deadline passed without progress: retry elsewhere.
    stale,          // The peer, lease or key is of an earlier life: ask the registry again.
    corrupt,        // Bytes do not match their digest.
    no_space,       // Disk or memory is full: make room, what was verified is kept.
    io,             // The operating system failed in a way that a retry is not known to mend.
    cancelled,      // The caller asked for it.
};

// A short lower-case name, e.g. "not_found".
const char* to_string(Code code) noexcept;

struct Error {
    Code code = Code::io;
    int sys_errno = 0;    // errno of the failed call, 0 if none
    std::string message;  // A sentence that names the thing and the limit, without a full stop.
};

// Builds an Error whose message ends with the system's text for `sys_errno`. Thread-safe.
Error system_error(Code code, int sys_errno, std::string what);

// As above; ENOSPC, EDQUOT and ENOMEM become Code::no_space, ENOENT Code::not_found, else Code::io.
Error system_error(int sys_errno, std::string what);

inline Error invalid_input(std::string message) {
    return {Code::invalid_input, 0, std::move(message)};
}

template <typename T>
using Result = boost::outcome_v2::basic_result<T, Error, boost::outcome_v2::policy::terminate>;

// The value of a Result<void> that succeeded.
inline auto success() { return boost::outcome_v2::success(); }

}  // namespace weightcast

#define WEIGHTCAST_CONCAT_INNER(a, b) a##b
#define WEIGHTCAST_CONCAT(a, b) WEIGHTCAST_CONCAT_INNER(a, b)
#define WEIGHTCAST_TRY_INNER(temporary, declaration, expression) \
    auto temporary = (expression);                               \
    if (!temporary) return std::move(temporary).error();         \
    declaration = std::move(temporary).value()
#define WEIGHTCAST_CHECK_INNER(temporary, expression) \
    if (auto temporary = (expression); !temporary) return std::move(temporary).error()

// WEIGHTCAST_TRY(auto value, call()): returns the error of `call()`, or declares `value`.
#define WEIGHTCAST_TRY(declaration, ...) \
    WEIGHTCAST_TRY_INNER(WEIGHTCAST_CONCAT(try_, __LINE__), declaration, (__VA_ARGS__))
// WEIGHTCAST_CHECK(call()): returns the error of a call whose value does not matter.
#define WEIGHTCAST_CHECK(...) \
    WEIGHTCAST_CHECK_INNER(WEIGHTCAST_CONCAT(check_, __LINE__), (__VA_ARGS__))
