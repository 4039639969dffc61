#include "fabric/fabric.h"

#include <fmt/core.h>

namespace weightcast::fabric {

const char* to_string(ReadStatus status) noexcept {
    switch (status) {
        case ReadStatus::ok:
            return "ok";
        case ReadStatus::unreachable:
            return "unreachable";
        case ReadStatus::timed_out:
            return "timed out";
        case ReadStatus::stale_peer:
            return "another incarnation";
        case ReadStatus::access_denied:
            return "access denied";
        case ReadStatus::remote_fault:
            return "the holder cannot read its own memory";
        case ReadStatus::cancelled:
            return "cancelled";
    }
    return "unknown";
}

Result<void> check_memory(const char* fabric, const Memory& memory, bool cuda_allowed) {
    if (memory.bytes.empty()) return Error{Code::invalid_input, 0, "no memory to register"};
    if (memory.fd_may_shrink && memory.fd < 0) {
        return Error{Code::invalid_input, 0, "memory that may shrink needs its descriptor"};
    }
    if (memory.cuda && !cuda_allowed) {
        return Error{Code::unavailable, 0, fmt::format("{} cannot register GPU memory", fabric)};
    }
    return success();
}

Result<Mapping> Fabric::map_region(LinkId, std::span<const std::byte>) {
    return Error{Code::unavailable, 0, std::string(name()) + " cannot map remote memory"};
}

}  // namespace weightcast::fabric
