// What two doctors say to each other, as lines of JSON. Whatever comes from the peer is checked
// here: names, addresses, keys and texts are bounded and printable.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fabric/fabric.h"
#include "weightcast/result.h"

namespace weightcast::transport::doctor {

inline constexpr std::size_t kLineBytesMax = 32 << 10U;
inline constexpr std::size_t kFabricsMax = 8;
inline constexpr std::uint64_t kTestBytes = 4 << 20U;  // that each side lets the other read

struct OfferedFabric {
    std::string name;
    std::string address;
    fabric::RegionKey key;
    std::string error;  // why there is no address and no key; empty if there are
};

// First from each side: what the other may read.
struct Offer {
    fabric::Incarnation incarnation{};
    std::uint64_t seed = 0;  // of the pattern in the memory
    std::vector<OfferedFabric> fabrics;
};

// How one side's reads from the other went over one fabric.
struct ReadReport {
    std::string fabric;
    std::string error;  // empty: they worked, and every byte was right
    double bytes_per_second = 0;
    double latency_us = 0;  // of a small read, the median
};

std::string encode(const Offer& offer);
std::string encode(const std::vector<ReadReport>& reports);
// What is said instead to a peer that does not keep to this.
std::string encode_refusal(const std::string& why);

// Errors: invalid_input, refused (the peer said so, with its text).
Result<Offer> decode_offer(std::string_view line);
Result<std::vector<ReadReport>> decode_reports(std::string_view line);

}  // namespace weightcast::transport::doctor
