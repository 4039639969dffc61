// Element types of the safetensors format, packed sub-byte ones included.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace weightcast::model {

// Values are part of the manifest encoding (docs/wire.md): never renumber.
enum class Dtype : std::uint8_t {
    boolean = 0,
    u8 = 1,
    i8 = 2,
    i16 = 3,
    u16 = 4,
    f16 = 5,
    bf16 = 6,
    i32 = 7,
    u32 = 8,
    f32 = 9,
    f64 = 10,
    i64 = 11,
    u64 = 12,
    f8_e4m3 = 13,
    f8_e5m2 = 14,
    f8_e8m0 = 15,
    f4 = 16,
    f6_e2m3 = 17,
    f6_e3m2 = 18,
    c64 = 19,
    f8_e4m3fnuz = 20,
    f8_e5m2fnuz = 21,
};

// Bits of one element, e.g. 16 for bf16, 4 for f4.
std::uint32_t bits_of(Dtype dtype) noexcept;
// The format's own name, e.g. "BF16", "F8_E4M3".
std::string_view name_of(Dtype dtype) noexcept;
std::optional<Dtype> parse_dtype(std::string_view name) noexcept;
std::optional<Dtype> dtype_from_value(std::uint8_t value) noexcept;

}  // namespace weightcast::model
