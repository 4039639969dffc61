// zstd, only where it pays, and bounded when it is undone.
#pragma once

#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/freer.h"

namespace weightcast {

using Memory = std::unique_ptr<std::byte[]>;

// For several parts, one after another: zstd's tables are made once. Thread-bound.
class Compressor {
  public:
    // Makes `part` its compressed form, which is put into `memory`, if that is at least 5 %
    // smaller. Returns whether it did.
    bool compress(std::span<const std::byte>& part, Memory& memory);

  private:
    std::unique_ptr<ZSTD_CCtx, Freer<ZSTD_freeCCtx>> context_;  // made when first needed
};

// For several parts, one after another. Thread-bound.
class Decompressor {
  public:
    // What `compressed` says to be when it is undone; nothing if it does not say so.
    static std::optional<std::uint64_t> bytes_of(std::span<const std::byte> compressed);
    // Fills `part`. Returns false if `compressed` is not valid or has another number of bytes; what
    // it says of itself never makes zstd take more memory. Throws std::bad_alloc.
    bool decompress(std::span<const std::byte> compressed, std::span<std::byte> part);

  private:
    std::unique_ptr<ZSTD_DCtx, Freer<ZSTD_freeDCtx>> context_;  // made when first needed
};

}  // namespace weightcast
