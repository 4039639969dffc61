#include "registry/content_coding.h"

#include <span>

namespace weightcast::registry {
namespace {

constexpr std::size_t kBytesMin = 1024;  // Smaller ones fit into a packet.

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kSpace = " \t";
    const auto first = text.find_first_not_of(kSpace);
    if (first == text.npos) return {};
    return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

}  // namespace

bool takes_zstd(std::string_view accept_encoding) {
    while (!accept_encoding.empty()) {
        const auto comma = accept_encoding.find(',');
        if (trimmed(accept_encoding.substr(0, comma)) == kZstdCoding) return true;
        accept_encoding.remove_prefix(comma == accept_encoding.npos ? accept_encoding.size()
                                                                    : comma + 1);
    }
    return false;
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
