#include "fabric/fabric.h"

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

Result<Mapping> Fabric::map_region(LinkId, std::span<const std::byte>) {
    return Error{Code::unavailable, 0, std::string(name()) + " cannot map remote memory"};
}

}  // namespace weightcast::fabric
