// Goal: no bytes break the reader of sets of deltas; what it accepts lies within the input, in
// order, and is written again as the same bytes. Input: the number of chunks, then the set.
#include <algorithm>
#include <string>
#include <vector>

#include "base/assert.h"
#include "delta/delta_set.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast;

}  // namespace

std::vector<std::string> fuzz_seeds() {
    const std::string first = "first";
    const std::string second = "the second";
    const std::vector<delta::SetEntry> entries{
        {0, std::as_bytes(std::span(first))}, {3, std::as_bytes(std::span(second))}, {4, {}}};
    std::vector<std::string> seeds;
    for (const std::size_t count : {std::size_t{0}, entries.size()}) {
        const auto set = delta::encode_set({7, {}, {}}, std::span(entries).first(count));
        seeds.push_back('\5' + std::string(reinterpret_cast<const char*>(set.data()), set.size()));
    }
    return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto input = std::as_bytes(std::span(data, size));
    if (input.empty()) return 0;
    const auto chunks = std::to_integer<std::uint32_t>(input[0]);
    const auto bytes = input.subspan(1);
    const auto set = delta::parse_set(bytes, chunks);
    if (!set) {
        WEIGHTCAST_ASSERT(set.error().code == Code::invalid_input);
        return 0;
    }
    const auto& entries = set.value().entries;
    for (std::size_t i = 0; i < entries.size(); ++i) {
        WEIGHTCAST_ASSERT(entries[i].chunk < chunks);
        WEIGHTCAST_ASSERT(i == 0 || entries[i].chunk > entries[i - 1].chunk);
        WEIGHTCAST_ASSERT(delta::find(set.value(), entries[i].chunk) == &entries[i]);
    }
    const auto again = delta::encode_set(set.value().header, entries);
    WEIGHTCAST_ASSERT(std::ranges::equal(again, bytes));
    return 0;
}
