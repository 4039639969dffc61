#include "model/dtype.h"

#include <array>

#include "base/assert.h"

namespace weightcast::model {
namespace {

struct Row {
    std::string_view name;
    std::uint32_t bits;
};

// Indexed by the enumerator's value.
constexpr std::array<Row, 22> kRows{{
    {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"I16", 16},    {"U16", 16},
    {"F16", 16},        {"BF16", 16},       {"I32", 32},    {"U32", 32},    {"F32", 32},
    {"F64", 64},        {"I64", 64},        {"U64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E8M0", 8},     {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"C64", 64},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
}};

const Row& row_of(Dtype dtype) {
    const auto value = static_cast<std::size_t>(dtype);
    WEIGHTCAST_ASSERT(value < kRows.size());
    return kRows[value];
}

}  // namespace

std::uint32_t bits_of(Dtype dtype) noexcept { return row_of(dtype).bits; }
std::string_view name_of(Dtype dtype) noexcept { return row_of(dtype).name; }

std::optional<Dtype> parse_dtype(std::string_view name) noexcept {
    for (std::size_t i = 0; i < kRows.size(); ++i) {
        if (kRows[i].name == name) return static_cast<Dtype>(i);
    }
    return std::nullopt;
}

std::optional<Dtype> dtype_from_value(std::uint8_t value) noexcept {
    if (value >= kRows.size()) return std::nullopt;
    return static_cast<Dtype>(value);
}

}  // namespace weightcast::model
