// Goal: an index is accepted only if it places exactly the tensors that the shards hold, whatever
// else it says. Input: the JSON text.
#include <map>
#include <string_view>

#include "base/assert.h"
#include "model/safetensors.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast::model;

SafetensorsHeader shard(const std::vector<std::string>& names) {
    SafetensorsHeader header;
    for (const std::string& name : names) header.tensors.emplace_back().name = name;
    return header;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    return {
        R"({"metadata":{"total_size":123},"weight_map":{"a":"m-1.st","b":"m-1.st","c":"m-2.st"}})",
        R"({"weight_map":{"a":"m-1.st","b":"m-1.st","c":"m-2.st"},"metadata":{"total_size":1.6e10,)"
        R"("x":[{"y":null}]},"more":[true,-1]})",
        R"({"weight_map":{"a":"m-1.st","b":"m-2.st","c":"m-2.st"}})",
        R"({"weight_map":{"a":"m-1.st","a":"m-1.st","b":"m-1.st","c":"m-2.st"}})",
        R"({"weight_map":{"a":"../m-1.st"}})",
        R"({"weight_map":["a"]})",
    };
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const SafetensorsHeader first = shard({"a", "b"});
    const SafetensorsHeader second = shard({"c"});
    const std::string_view json(reinterpret_cast<const char*>(data), size);
    const auto right = check_shard_index(json, {{"m-1.st", &first}, {"m-2.st", &second}});
    // Where a tensor lies is not a matter of taste: no text fits two sets of shards.
    const auto swapped = check_shard_index(json, {{"m-1.st", &second}, {"m-2.st", &first}});
    WEIGHTCAST_ASSERT(!right || !swapped);
    if (!right) return 0;
    for (const std::string_view word : {"weight_map", "m-1.st", "m-2.st"}) {
        const bool escaped = json.find('\\') != std::string_view::npos;
        WEIGHTCAST_ASSERT(escaped || json.find(word) != std::string_view::npos);
    }
    return 0;
}
