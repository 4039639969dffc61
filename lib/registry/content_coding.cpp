#include "registry/content_coding.h"

#include <algorithm>
#include <boost/beast/http/rfc7230.hpp>
#include <span>

namespace weightcast::registry {
namespace {

constexpr std::size_t kBytesMin = 1024;  // Smaller ones fit into a packet.

}  // namespace

bool takes_zstd(std::string_view accept_encoding) {
    const boost::beast::http::ext_list codings({accept_encoding.data(), accept_encoding.size()});
    return std::any_of(codings.begin(), codings.end(), [](const auto& coding) {
        const auto& [name, parameters] = coding;
        return std::string_view(name.data(), name.size()) == kZstdCoding &&
               parameters.begin() == parameters.end();
    });
}

bool compress_body(Compressor& compressor, std::string& body) {
    if (body.size() < kBytesMin) return false;
    auto part = std::as_bytes(std::span(body));
    Memory memory;
    if (!compressor.compress(part, memory)) return false;
    body.assign(reinterpret_cast<const char*>(part.data()), part.size());
    return true;
}

bool decompress_body(Decompressor& decompressor, std::string& body, std::uint64_t bytes_max) {
    const auto compressed = std::as_bytes(std::span(body));
    const auto bytes = Decompressor::bytes_of(compressed);
    if (!bytes || *bytes > bytes_max) return false;
    std::string text(static_cast<std::size_t>(*bytes), '\0');
    if (!decompressor.decompress(compressed, std::as_writable_bytes(std::span(text)))) return false;
    body = std::move(text);
    return true;
}

}  // namespace weightcast::registry
