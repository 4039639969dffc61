// The registry as an HTTP/1.1 + JSON server (docs/openapi.yaml) on Boost.Asio coroutines.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "registry/placement.h"
#include "weightcast/result.h"

namespace weightcast::registry {

struct ServerOptions {
    std::string listen = "127.0.0.1:7070";  // HOST:PORT; port 0: any free one
    std::string store_directory;            // durable state; empty: in memory only
    std::string token;  // bearer token that every request must carry; empty: none
    Placement placement;
    std::uint32_t lease_ms = 5000;
    std::uint32_t versions_kept = 128;     // of a model, the newest, though nobody has them
    std::uint32_t grace_ms = 2000;         // added to a lease before it is taken for dead
    std::uint32_t request_ms_max = 10000;  // from the first byte of a request to its end
    std::uint32_t idle_ms_max = 60000;     // between requests of one connection
    std::uint32_t head_bytes_max = 16384;
    std::uint64_t body_bytes_max = 64ULL << 20U;
    std::uint32_t connections_max = 16384;
    std::uint32_t connections_per_host_max = 16384;
};

// Serves from construction to destruction, on a thread of its own.
class Server {
  public:
    // Warns loudly when it listens beyond loopback without a token.
    // Errors: invalid_input (listen), conflict (the store is in use), io (bind, store).
    static Result<std::unique_ptr<Server>> start(const ServerOptions& options);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // "http://HOST:PORT", with the port that was bound.
    const std::string& url() const;

  private:
    struct Implementation;
    explicit Server(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace weightcast::registry
