// Bytes as lower-case hexadecimal text.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weightcast {

std::string to_hex(std::span<const std::byte> bytes);

// Nothing if `text` has an odd length or another character than 0-9, a-f.
std::optional<std::vector<std::byte>> from_hex(std::string_view text);

}  // namespace weightcast
