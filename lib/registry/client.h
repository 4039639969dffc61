// The registry over HTTP. One persistent connection, opened on demand and again after an error.
// Thread-safe: calls are serialised.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "registry/api.h"
#include "weightcast/result.h"

namespace weightcast::registry {

struct ClientOptions {
    std::string url;                   // http://HOST:PORT
    std::string token;                 // empty: none
    std::uint32_t call_ms_max = 5000;  // whole deadline of one call
    std::uint64_t body_bytes_max = 256ULL << 20U;
};

// Does not connect yet. Errors: invalid_input (the URL).
Result<std::unique_ptr<Api>> connect(const ClientOptions& options);

// Reads a bearer token from a file: its text without surrounding white space. Refuses a file that
// others than its owner may read. Errors: invalid_input, not_found, io.
Result<std::string> read_token_file(const std::string& path);

}  // namespace weightcast::registry
