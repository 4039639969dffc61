// Writing a header, for tensors that lie in memory and never were a file.
#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/string_view.hpp>

#include "model/json_walk.h"
#include "model/safetensors.h"

namespace weightcast::model {
namespace {

constexpr std::size_t kDataAlignment = 4096;

void append_string(std::string& json, std::string_view text) {
    json += boost::json::serialize(boost::json::string_view(text.data(), text.size()));
}

void append_metadata(std::string& json, const std::map<std::string, std::string>& metadata) {
    if (metadata.empty()) return;
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
        if (json.back() != '{') json += ',';
        append_string(json, key);
        json += ':';
        append_string(json, value);
    }
    json += '}';
}

void append_tensor(std::string& json, const TensorEntry& tensor) {
    append_string(json, tensor.name);
    json.append(R"(:{"dtype":")").append(name_of(tensor.dtype)).append(R"(","shape":[)");
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
        if (i > 0) json += ',';
        json += std::to_string(tensor.shape[i]);
    }
    json.append(R"(],"data_offsets":[)").append(std::to_string(tensor.offset)).append(",");
    json.append(std::to_string(tensor.offset + tensor.bytes)).append("]}");
}

}  // namespace

Result<std::vector<std::byte>> write_safetensors_header(
    std::span<TensorEntry> tensors, const std::map<std::string, std::string>& metadata) {
    std::uint64_t data_bytes = 0;
    std::string json = "{";
    append_metadata(json, metadata);
    for (TensorEntry& tensor : tensors) {
        const std::string what = "tensor '" + printable(tensor.name) + "'";
        const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
        if (!bytes) return invalid_input(what + ": " + bytes.error().message);
        if (bytes.value() != tensor.bytes) {
            return invalid_input(what + " has " + std::to_string(tensor.bytes) +
                                 " bytes, but its dtype and shape give " +
                                 std::to_string(bytes.value()));
        }
        tensor.offset = data_bytes;
        if (__builtin_add_overflow(data_bytes, tensor.bytes, &data_bytes)) {
            return invalid_input(what + " makes the data 2^64 or more bytes");
        }
        if (json.size() > 1) json += ',';
        append_tensor(json, tensor);
    }
    json += '}';
    const std::size_t unaligned = (kHeaderLengthBytes + json.size()) % kDataAlignment;
    if (unaligned > 0) json.append(kDataAlignment - unaligned, ' ');

    std::uint64_t file_bytes = kHeaderLengthBytes + json.size();
    if (__builtin_add_overflow(file_bytes, data_bytes, &file_bytes)) {
        return invalid_input("the file would have 2^64 or more bytes");
    }
    // Reading it back refuses what no reader would take: a name twice or not in UTF-8, a limit.
    WEIGHTCAST_CHECK(parse_safetensors_header(json, file_bytes));

    std::vector<std::byte> bytes(kHeaderLengthBytes + json.size());
    for (std::size_t i = 0; i < kHeaderLengthBytes; ++i) {
        bytes[i] = static_cast<std::byte>(json.size() >> (8 * i) & 0xffU);
    }
    const auto* first = reinterpret_cast<const std::byte*>(json.data());
    std::copy_n(first, json.size(), bytes.begin() + kHeaderLengthBytes);
    return bytes;
}

}  // namespace weightcast::model
