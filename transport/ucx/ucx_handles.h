// Owners of UCX handles, and what both ends of the ucx transport say to each other.
#pragma once

#include <ucp/api/ucp.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/freer.h"
#include "fabric/fabric.h"

namespace weightcast::transport::ucx {

using Context = std::unique_ptr<::ucp_context, Freer<::ucp_cleanup>>;
using Worker = std::unique_ptr<::ucp_worker, Freer<::ucp_worker_destroy>>;
using Listener = std::unique_ptr<::ucp_listener, Freer<::ucp_listener_destroy>>;

using Key = std::array<std::byte, 16>;  // from the kernel's generator, so it cannot be guessed

// Active message ids and their headers; structs in native byte order, as UCX itself uses.
inline constexpr unsigned kHelloId = 1;
inline constexpr unsigned kHelloReplyId = 2;
inline constexpr unsigned kReadId = 3;
inline constexpr unsigned kReadReplyId = 4;
inline constexpr std::uint64_t kMagic = 0x3158435554534157;  // "WASTUCX1"

struct Hello {
    std::uint64_t magic = kMagic;
    std::uint64_t link = 0;  // of the reader, echoed; cannot be guessed
    fabric::Incarnation incarnation{};
};

struct ReadRequest {
    std::uint64_t link = 0;
    std::uint64_t request = 0;
    Key key{};
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

// Followed by the bytes if the status is ok.
struct ReadReply {
    std::uint64_t link = 0;
    std::uint64_t request = 0;
    fabric::ReadStatus status = fabric::ReadStatus::ok;
};

Error ucx_error(Code code, ::ucs_status_t status, const std::string& what);

// Errors: unavailable (UCX finds no transport).
Result<Context> make_context();
// Not shared between threads at a time. Errors: io.
Result<Worker> make_worker(::ucp_context_h context);

struct SocketAddress {
    ::sockaddr_storage storage{};
    ::socklen_t bytes = 0;
    // "ucx://127.0.0.1:4711", "ucx://[::1]:4711".
    std::string text() const;
};
// Nothing if `text` is not what text() makes.
std::optional<SocketAddress> parse_address(std::string_view text);
// Errors: invalid_input (not a numeric address, or one that stands for all).
Result<SocketAddress> parse_listen(const std::string& host);

// Runs `step` until `worker` completed the request, or it is time. Frees the request.
// False: it is still outstanding.
bool finish_request(::ucp_worker_h worker, void* request, Duration patience);

}  // namespace weightcast::transport::ucx
