// Integers that cannot be mistaken for one another.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace weightcast {

template <typename Tag, typename Integer = std::uint64_t>
struct Strong {
    Integer value{};
    constexpr Strong() = default;
    constexpr explicit Strong(Integer v) : value(v) {}
    constexpr auto operator<=>(const Strong&) const = default;
};

}  // namespace weightcast

template <typename Tag, typename Integer>
struct std::hash<weightcast::Strong<Tag, Integer>> {
    std::size_t operator()(const weightcast::Strong<Tag, Integer>& s) const noexcept {
        return std::hash<Integer>{}(s.value);
    }
};
