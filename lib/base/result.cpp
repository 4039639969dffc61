#include "weightcast/result.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "base/assert.h"

namespace weightcast {

const char* to_string(Code code) noexcept {
    switch (code) {
        case Code::invalid_input:
            return "invalid_input";
        case Code::not_found:
            return "not_found";
        case Code::conflict:
            return "conflict";
        case Code::refused:
            return "refused";
        case Code::unavailable:
            return "unavailable";
        case Code::timed_out:
            return "timed_out";
        case Code::stale:
            return "stale";
        case Code::corrupt:
            return "corrupt";
        case Code::no_space:
            return "no_space";
        case Code::io:
            return "io";
        case Code::cancelled:
            return "cancelled";
    }
    return "unknown";
}

Error system_error(Code code, int sys_errno, std::string what) {
    what += ": " + std::system_category().message(sys_errno);
    return {code, sys_errno, std::move(what)};
}

Error system_error(int sys_errno, std::string what) {
    const bool full = sys_errno == ENOSPC || sys_errno == EDQUOT || sys_errno == ENOMEM;
    const Code code = full ? Code::no_space : sys_errno == ENOENT ? Code::not_found : Code::io;
    return system_error(code, sys_errno, std::move(what));
}

void assertion_failed(const char* expression, const char* file, int line) noexcept {
    std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, expression);
    std::abort();
}

}  // namespace weightcast
