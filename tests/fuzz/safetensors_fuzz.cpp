// Goal: no header text, however broken, is accepted unless its tensors cover the data exactly, and
// an accepted one can be written and read again. Input: 8 bytes file size, then the JSON text.
#include <algorithm>
#include <string_view>

#include "base/assert.h"
#include "model/safetensors.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast::model;

constexpr std::size_t kSizeBytes = 8;

std::string seed(std::uint64_t data_bytes, const std::string& json) {
    std::string input;
    const std::uint64_t file_bytes = 8 + json.size() + data_bytes;
    for (unsigned i = 0; i < kSizeBytes; ++i) {
        input.push_back(static_cast<char>(file_bytes >> (8 * i) & 0xffU));
    }
    return input + json;
}

void check_accepted(SafetensorsHeader header, std::uint64_t file_bytes) {
    std::uint64_t covered = 0;
    for (const TensorEntry& tensor : header.tensors) {
        WEIGHTCAST_ASSERT(tensor.offset == covered);
        WEIGHTCAST_ASSERT(tensor_bytes(tensor.dtype, tensor.shape).value() == tensor.bytes);
        covered += tensor.bytes;
    }
    WEIGHTCAST_ASSERT(header.data_offset + covered == file_bytes);

    const auto written = write_safetensors_header(header.tensors, header.metadata);
    // Only a sum near 2^64 stands against writing it anew.
    if (!written) {
        WEIGHTCAST_ASSERT(file_bytes > ~std::uint64_t{0} - 1'000'000);
        return;
    }
    const auto& bytes = written.value();
    const std::string_view json(reinterpret_cast<const char*>(bytes.data()) + 8, bytes.size() - 8);
    const auto again = parse_safetensors_header(json, bytes.size() + covered);
    WEIGHTCAST_ASSERT(again.has_value());
    WEIGHTCAST_ASSERT(again.value().metadata == header.metadata);
    WEIGHTCAST_ASSERT(std::equal(
        again.value().tensors.begin(), again.value().tensors.end(), header.tensors.begin(),
        header.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
            return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape &&
                   a.offset == b.offset && a.bytes == b.bytes;
        }));
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    return {
        seed(0, "{}"),
        seed(24, R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                 R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}})"),
        seed(3, R"({"__metadata__":{"format":"pt","k":"\u00e9\n"},)"
                R"("f6":{"data_offsets":[0,3],"shape":[4],"dtype":"F6_E2M3"}}   )"),
        seed(8, R"({"z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                R"("s":{"dtype":"I64","shape":[],"data_offsets":[0,8],"more":{"x":[1,{}]}}})"),
        seed(8, R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                R"("a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})"),
        seed(0, R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"),
        seed(0, std::string(64, '[')),
    };
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < kSizeBytes) return 0;
    std::uint64_t file_bytes = 0;
    for (std::size_t i = kSizeBytes; i-- > 0;) file_bytes = file_bytes << 8U | data[i];
    const std::string_view json(reinterpret_cast<const char*>(data) + kSizeBytes,
                                size - kSizeBytes);
    const HeaderLimits limits{.header_bytes_max = 1 << 20,
                              .tensors_max = 64,
                              .name_bytes_max = 256,
                              .dimensions_max = 8,
                              .metadata_entries_max = 16};
    auto header = parse_safetensors_header(json, file_bytes, limits);
    if (header) check_accepted(std::move(header).value(), file_bytes);
    return 0;
}
