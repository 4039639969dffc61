#include "transport/verbs/connector.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

namespace weightcast::transport::verbs {

void Connector::fail(fabric::ReadStatus status, std::string error) {
    state_ = state_ == State::connected ? State::lost : State::failed;
    status_ = status;
    error_ = std::move(error);
}

bool Connector::accept(const Welcome& welcome) {
    if (welcome.verdict == Verdict::accepted) {
        path_.mtu = static_cast<::ibv_mtu>(std::min(welcome.mtu, hello_.mtu));
        path_.retries = retries_of(pair_.rail().choice());
        path_.read_depth = std::clamp<std::uint8_t>(path_.read_depth, 1, welcome.serve_depth);
        return true;
    }
    const bool stale = welcome.verdict == Verdict::stale_peer;
    std::string why = to_string(welcome.verdict);
    if (welcome.verdict == Verdict::wrong_protocol) {
        why = fmt::format("it speaks protocol version {}, we speak {}", welcome.protocol,
                          kProtocolVersion);
    }
    fail(stale ? fabric::ReadStatus::stale_peer : fabric::ReadStatus::unreachable, std::move(why));
    return false;
}

}  // namespace weightcast::transport::verbs
