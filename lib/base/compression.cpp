#include "base/compression.h"

#include <new>

namespace weightcast {
namespace {

constexpr int kLevel = 1;

}  // namespace

bool Compressor::compress(std::span<const std::byte>& part, Memory& memory) {
    if (!context_) context_.reset(ZSTD_createCCtx());
    if (!context_ || part.empty()) return false;
    // Where this is not enough, zstd gives up.
    const std::size_t useful_bytes = part.size() - (part.size() + 19) / 20;
    memory = std::make_unique_for_overwrite<std::byte[]>(useful_bytes);
    const std::size_t bytes = ZSTD_compressCCtx(context_.get(), memory.get(), useful_bytes,
                                                part.data(), part.size(), kLevel);
    if (ZSTD_isError(bytes) != 0) return false;
    part = {memory.get(), bytes};
    return true;
}

std::optional<std::uint64_t> Decompressor::bytes_of(std::span<const std::byte> compressed) {
    const auto bytes = ZSTD_getFrameContentSize(compressed.data(), compressed.size());
    if (bytes == ZSTD_CONTENTSIZE_UNKNOWN || bytes == ZSTD_CONTENTSIZE_ERROR) return std::nullopt;
    return bytes;
}

bool Decompressor::decompress(std::span<const std::byte> compressed, std::span<std::byte> part) {
    if (!context_) context_.reset(ZSTD_createDCtx());
    if (!context_) throw std::bad_alloc();
    const std::size_t bytes = ZSTD_decompressDCtx(context_.get(), part.data(), part.size(),
                                                  compressed.data(), compressed.size());
    return ZSTD_isError(bytes) == 0 && bytes == part.size();
}

}  // namespace weightcast
