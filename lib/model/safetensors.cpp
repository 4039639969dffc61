#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <tuple>

#include "base/file.h"
#include "model/json_walk.h"

namespace weightcast::model {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

// Builds the entries from the events of a header's JSON text. Depth 1 is the object of all
// tensors, depth 2 one tensor or the metadata, depth 3 an array of a tensor.
class HeaderSink final : public JsonSink {
  public:
    HeaderSink(SafetensorsHeader& header, const HeaderLimits& limits)
        : header_(header), limits_(limits) {}

    bool begin_object() override {
        if (depth_ == 0 || in_unknown()) return descend();
        if (depth_ != 1) return fail(where() + " is an object");
        if (!in_metadata_) header_.tensors.emplace_back().name = name_;
        seen_ = {};
        return descend();
    }
    bool end_object() override {
        --depth_;
        if (depth_ != 1 || in_metadata_) return true;
        if (seen_.dtype && seen_.shape && seen_.offsets) return take_offsets();
        return fail(where() + " lacks " +
                    (!seen_.dtype   ? "dtype"
                     : !seen_.shape ? "shape"
                                    : "data_offsets"));
    }
    bool begin_array() override {
        if (in_unknown()) return descend();
        if (depth_ != 2 || in_metadata_ || field_ == Field::dtype) {
            return fail(where() + " is an array");
        }
        offsets_count_ = 0;
        return descend();
    }
    bool end_array() override {
        --depth_;
        if (in_unknown()) return true;
        if (field_ == Field::offsets && offsets_count_ != 2) {
            return fail(where() + " has not two numbers");
        }
        return true;
    }
    bool key(std::string_view key) override {
        if (depth_ > 2) return true;
        if (depth_ == 1) return tensor_key(key);
        if (!in_metadata_) return field_key(key);
        if (header_.metadata.size() >= limits_.metadata_entries_max) {
            return fail("the metadata has more than " +
                        std::to_string(limits_.metadata_entries_max) +
                        " entries (metadata_entries_max)");
        }
        const auto [position, fresh] = header_.metadata.try_emplace(std::string(key));
        if (!fresh) return fail("metadata key '" + printable(key) + "' occurs twice");
        metadata_value_ = &position->second;
        return true;
    }
    bool string(std::string_view value) override {
        if (in_unknown()) return true;
        if (depth_ == 2 && in_metadata_) {
            metadata_value_->assign(value);
            return true;
        }
        if (depth_ != 2 || field_ != Field::dtype) return fail(where() + " is a string");
        const auto dtype = parse_dtype(value);
        if (!dtype) return fail(where() + " '" + printable(value) + "' is unknown");
        header_.tensors.back().dtype = *dtype;
        return true;
    }
    bool number(std::uint64_t value) override {
        if (in_unknown()) return true;
        if (depth_ != 3) return fail(where() + " is a number");
        if (field_ == Field::offsets) {
            if (offsets_count_ == offsets_.size()) return fail(where() + " has not two numbers");
            offsets_[offsets_count_++] = value;
            return true;
        }
        auto& shape = header_.tensors.back().shape;
        if (shape.size() >= limits_.dimensions_max) {
            return fail(where() + " has more than " + std::to_string(limits_.dimensions_max) +
                        " dimensions (dimensions_max)");
        }
        shape.push_back(value);
        return true;
    }
    bool other(JsonOther kind, double) override {
        if (in_unknown()) return true;
        if (depth_ == 1 && in_metadata_ && kind == JsonOther::null) return true;
        const bool is_number = kind == JsonOther::negative || kind == JsonOther::fraction;
        return fail(where() + (is_number ? " is not an integer from 0 to 2^64 - 1"
                                         : " is true, false or null"));
    }

  private:
    enum class Field { dtype, shape, offsets, unknown };
    struct Seen {
        bool dtype = false;
        bool shape = false;
        bool offsets = false;
    };

    bool fail(std::string text) {
        problem = std::move(text);
        return false;
    }
    bool descend() {
        ++depth_;
        return true;
    }
    // Other fields of a tensor are allowed by the format and skipped, whatever they hold.
    bool in_unknown() const { return depth_ >= 2 && !in_metadata_ && field_ == Field::unknown; }

    std::string tensor() const { return "tensor '" + printable(name_) + "'"; }
    std::string where() const {
        if (depth_ == 0) return "the header";
        if (in_metadata_) return "the metadata";
        if (depth_ == 1) return tensor();
        constexpr std::array<std::string_view, 4> kNames{"dtype", "shape", "data_offsets", "field"};
        return tensor().append(": ").append(kNames[static_cast<std::size_t>(field_)]);
    }
    bool tensor_key(std::string_view key) {
        in_metadata_ = key == kMetadataKey;
        if (in_metadata_) {
            if (metadata_seen_) return fail("the metadata occurs twice");
            metadata_seen_ = true;
            return true;
        }
        name_.assign(key);
        field_ = Field::dtype;
        if (key.find('\0') != std::string_view::npos) return fail(where() + " has a NUL in it");
        if (header_.tensors.size() >= limits_.tensors_max) {
            return fail("the header has more than " + std::to_string(limits_.tensors_max) +
                        " tensors (tensors_max)");
        }
        return true;
    }
    bool field_key(std::string_view key) {
        bool* seen = nullptr;
        if (key == "dtype") {
            field_ = Field::dtype;
            seen = &seen_.dtype;
        } else if (key == "shape") {
            field_ = Field::shape;
            seen = &seen_.shape;
        } else if (key == "data_offsets") {
            field_ = Field::offsets;
            seen = &seen_.offsets;
        } else {
            field_ = Field::unknown;
            return true;
        }
        if (*seen) return fail(where() + " occurs twice");
        *seen = true;
        return true;
    }
    bool take_offsets() {
        TensorEntry& entry = header_.tensors.back();
        const auto [begin, end] = offsets_;
        if (end < begin) {
            return fail(tensor() + " ends at byte " + std::to_string(end) +
                        " of the data, before it begins at byte " + std::to_string(begin));
        }
        const auto bytes = tensor_bytes(entry.dtype, entry.shape);
        if (!bytes) return fail(tensor() + ": " + bytes.error().message);
        if (bytes.value() != end - begin) {
            return fail(tensor() + " has " + std::to_string(end - begin) +
                        " bytes, but its dtype and shape give " + std::to_string(bytes.value()));
        }
        entry.offset = begin;
        entry.bytes = end - begin;
        return true;
    }

    SafetensorsHeader& header_;
    const HeaderLimits& limits_;
    std::size_t depth_ = 0;
    std::string name_;
    bool in_metadata_ = false;
    bool metadata_seen_ = false;
    std::string* metadata_value_ = nullptr;
    Field field_ = Field::dtype;
    Seen seen_;
    std::array<std::uint64_t, 2> offsets_{};
    std::size_t offsets_count_ = 0;
};

Result<void> check_names_unique(const std::vector<TensorEntry>& tensors) {
    std::vector<const std::string*> names;
    names.reserve(tensors.size());
    for (const TensorEntry& tensor : tensors) names.push_back(&tensor.name);
    std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return *a < *b; });
    const auto twice =
        std::adjacent_find(names.begin(), names.end(), [](auto* a, auto* b) { return *a == *b; });
    if (twice == names.end()) return success();
    return invalid_input("tensor '" + printable(**twice) + "' occurs twice");
}

// The data must be covered from its first to its last byte, each byte by one tensor.
Result<void> check_cover(const std::vector<TensorEntry>& tensors, std::uint64_t data_bytes) {
    std::uint64_t covered = 0;
    for (const TensorEntry& tensor : tensors) {
        if (tensor.offset != covered) {
            return invalid_input("tensor '" + printable(tensor.name) + "' begins at byte " +
                                 std::to_string(tensor.offset) + " of the data, " +
                                 (tensor.offset < covered ? "in another tensor" : "behind a hole") +
                                 ": expected " + std::to_string(covered));
        }
        if (tensor.bytes > data_bytes - covered) {
            return invalid_input("tensor '" + printable(tensor.name) + "' ends at byte " +
                                 std::to_string(covered + tensor.bytes) +
                                 " of the data, which has " + std::to_string(data_bytes));
        }
        covered += tensor.bytes;
    }
    if (covered == data_bytes) return success();
    return invalid_input("the file has " + std::to_string(data_bytes - covered) +
                         " bytes behind its last tensor");
}

}  // namespace

Result<std::uint64_t> tensor_bytes(Dtype dtype, std::span<const std::uint64_t> shape) {
    // A zero anywhere makes the tensor empty, but the format's own reader multiplies from the left
    // and refuses an overflow before it sees the zero. So do we.
    std::uint64_t bits = 1;
    for (const std::uint64_t dimension : shape) {
        if (__builtin_mul_overflow(bits, dimension, &bits)) {
            return invalid_input("its shape has 2^64 or more elements");
        }
    }
    if (__builtin_mul_overflow(bits, std::uint64_t{bits_of(dtype)}, &bits)) {
        return invalid_input("it has 2^64 or more bits");
    }
    if (bits % 8 != 0) {
        return invalid_input("its " + std::to_string(bits) +
                             " bits are not a whole number of bytes");
    }
    return bits / 8;
}

Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, std::uint64_t file_bytes,
                                                   const HeaderLimits& limits) {
    if (json.size() > limits.header_bytes_max) {
        return invalid_input("the header has " + std::to_string(json.size()) +
                             " bytes, more than " + std::to_string(limits.header_bytes_max) +
                             " (header_bytes_max)");
    }
    if (file_bytes < kHeaderLengthBytes || json.size() > file_bytes - kHeaderLengthBytes) {
        return invalid_input("the header has " + std::to_string(json.size()) +
                             " bytes, more than the file");
    }
    if (json.empty() || json.front() != '{') {
        return invalid_input("the header does not begin with '{'");
    }
    SafetensorsHeader header;
    HeaderSink sink(header, limits);
    const JsonLimits json_limits{.depth_max = 8, .key_bytes_max = limits.name_bytes_max};
    WEIGHTCAST_CHECK(walk_json(json, json_limits, sink));
    WEIGHTCAST_CHECK(check_names_unique(header.tensors));
    std::sort(header.tensors.begin(), header.tensors.end(),
              [](const TensorEntry& a, const TensorEntry& b) {
                  return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
              });
    header.data_offset = kHeaderLengthBytes + json.size();
    WEIGHTCAST_CHECK(check_cover(header.tensors, file_bytes - header.data_offset));
    return header;
}

Result<SafetensorsHeader> read_safetensors_header(int fd, const std::string& name,
                                                  const HeaderLimits& limits) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return system_error(errno, "fstat of '" + name + "'");
    if (!S_ISREG(status.st_mode)) return invalid_input("'" + name + "' is not a regular file");
    const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
    if (file_bytes < kHeaderLengthBytes) {
        return invalid_input("'" + name + "' is too short for a safetensors header");
    }
    std::array<char, kHeaderLengthBytes> length{};
    WEIGHTCAST_CHECK(read_exactly(fd, std::as_writable_bytes(std::span(length)), 0, name));
    std::uint64_t header_bytes = 0;
    for (std::size_t i = length.size(); i-- > 0;) {
        header_bytes = header_bytes << 8U | static_cast<unsigned char>(length[i]);
    }
    if (header_bytes > limits.header_bytes_max || header_bytes > file_bytes - kHeaderLengthBytes) {
        const bool over = header_bytes > limits.header_bytes_max;
        return invalid_input(
            "'" + name + "': the header has " + std::to_string(header_bytes) +
            " bytes, more than " +
            (over ? std::to_string(limits.header_bytes_max) + " (header_bytes_max)" : "the file"));
    }
    std::string json(header_bytes, '\0');
    WEIGHTCAST_CHECK(
        read_exactly(fd, std::as_writable_bytes(std::span(json)), kHeaderLengthBytes, name));
    auto header = parse_safetensors_header(json, file_bytes, limits);
    if (!header) {
        Error error = std::move(header).error();
        error.message = "'" + name + "': " + error.message;
        return error;
    }
    return header;
}

}  // namespace weightcast::model
