// The safetensors header: parsed from foreign bytes, and written for memory that never was a file.
// Format: https://github.com/huggingface/safetensors#format. All functions: reentrant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/dtype.h"
#include "weightcast/result.h"

namespace weightcast::model {

// The length of the JSON text, in front of it: little-endian.
inline constexpr std::size_t kHeaderLengthBytes = 8;

struct HeaderLimits {
    std::uint64_t header_bytes_max = 100'000'000;
    std::uint32_t tensors_max = 4'000'000;
    std::uint32_t name_bytes_max = 4096;
    std::uint32_t dimensions_max = 64;
    std::uint32_t metadata_entries_max = 65'536;
};

struct TensorEntry {
    std::string name;
    Dtype dtype = Dtype::u8;
    std::vector<std::uint64_t> shape;  // outermost dimension first; empty for a scalar
    std::uint64_t offset = 0;          // from the first byte after the header
    std::uint64_t bytes = 0;
};

struct SafetensorsHeader {
    std::uint64_t data_offset = 0;     // of the first byte after the header, from the file's start
    std::vector<TensorEntry> tensors;  // by ascending offset, then size, then name
    std::map<std::string, std::string> metadata;
};

// Parses the JSON text of a header (without the 8-byte length) of a file of `file_bytes` bytes.
// Refuses: a text over a limit, duplicate names, unknown dtypes, a size that does not match dtype
// and shape, overflow, overlap, a hole, trailing or missing data.
// Errors: invalid_input, naming the tensor and the limit.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, std::uint64_t file_bytes,
                                                   const HeaderLimits& limits = {});

// Reads and parses the header of an open file with pread. `name` is for messages.
// Errors: invalid_input, io.
Result<SafetensorsHeader> read_safetensors_header(int fd, const std::string& name,
                                                  const HeaderLimits& limits = {});

// The bytes of a header (length included, padded with spaces so that data starts on a multiple of
// 4096) for tensors that lie one after another in the given order. Sets each entry's offset.
// Errors: invalid_input (a duplicate name, a size that does not match).
Result<std::vector<std::byte>> write_safetensors_header(
    std::span<TensorEntry> tensors, const std::map<std::string, std::string>& metadata);

// Bytes of a tensor by dtype and shape. Errors: invalid_input (overflow, not a whole byte).
Result<std::uint64_t> tensor_bytes(Dtype dtype, std::span<const std::uint64_t> shape);

// Checks the text of a `model.safetensors.index.json` against the tensors that its shards hold.
// `shards` maps file name to header. Errors: invalid_input, naming the tensor or the file.
Result<void> check_shard_index(std::string_view json,
                               const std::map<std::string, const SafetensorsHeader*>& shards);

}  // namespace weightcast::model
