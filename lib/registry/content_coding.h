// Bodies in the content coding "zstd" of HTTP (RFC 8878, 6.2): hints are keys and addresses with
// much the same around them, and a fleet that starts wants hints of all at once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/compression.h"

namespace weightcast::registry {

inline constexpr std::string_view kZstdCoding = "zstd";

// Whether a client that sent this Accept-Encoding takes the coding. One with a quality is not taken
// up: nobody needs to be.
bool takes_zstd(std::string_view accept_encoding);

// Compresses `body` where that pays. Returns whether it did.
bool compress_body(Compressor& compressor, std::string& body);

// Undoes that. Returns false if the body is malformed or would have more than `bytes_max`. Throws
// std::bad_alloc.
bool decompress_body(Decompressor& decompressor, std::string& body, std::uint64_t bytes_max);

}  // namespace weightcast::registry
