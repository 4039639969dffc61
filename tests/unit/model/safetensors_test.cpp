// Goal: good headers are read as the format's own reader reads them; hostile ones are refused with
// an error that names the tensor or the limit. Method: JSON texts, one fault each.
#include "model/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "tests/kit/catch.h"

namespace weightcast::model {
namespace {

using Catch::Matchers::Contains;

Result<SafetensorsHeader> parse(const std::string& json, std::uint64_t data_bytes,
                                const HeaderLimits& limits = {}) {
    return parse_safetensors_header(json, 8 + json.size() + data_bytes, limits);
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   std::uint64_t begin, std::uint64_t end) {
    return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape +
           R"(,"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

void check_refused(const std::string& json, std::uint64_t data_bytes, const std::string& because) {
    const auto header = parse(json, data_bytes);
    CAPTURE(json.substr(0, 200));
    REQUIRE_FALSE(header);
    CHECK(header.error().code == Code::invalid_input);
    CHECK_THAT(header.error().message, Contains(because));
}

UniqueFd file_of(const std::string& bytes) {
    UniqueFd fd(::memfd_create("safetensors_test", MFD_CLOEXEC));
    REQUIRE(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    return fd;
}

std::string length_of(std::uint64_t length) {
    std::string bytes;
    for (unsigned i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i) & 255U));
    return bytes;
}

TEST_CASE("every dtype has its name, its size and its value") {
    const std::vector<std::pair<std::string, std::uint32_t>> expected{
        {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"I16", 16},    {"U16", 16},
        {"F16", 16},        {"BF16", 16},       {"I32", 32},    {"U32", 32},    {"F32", 32},
        {"F64", 64},        {"I64", 64},        {"U64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8},
        {"F8_E8M0", 8},     {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"C64", 64},
        {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    };
    for (std::size_t value = 0; value < expected.size(); ++value) {
        const auto& [name, bits] = expected[value];
        CAPTURE(name);
        const auto dtype = dtype_from_value(static_cast<std::uint8_t>(value));
        REQUIRE(dtype);
        CHECK(name_of(*dtype) == name);
        CHECK(parse_dtype(name) == dtype);
        CHECK(bits_of(*dtype) == bits);
        // 8 elements of any dtype are as many bytes as one has bits.
        const auto header = parse("{" + tensor("t", name, "[2,4]", 0, bits) + "}", bits);
        REQUIRE_OK(header);
        CHECK(header.value().tensors[0].dtype == *dtype);
        CHECK(header.value().tensors[0].shape == std::vector<std::uint64_t>{2, 4});
    }
    CHECK_FALSE(dtype_from_value(static_cast<std::uint8_t>(expected.size())));
    CHECK_FALSE(dtype_from_value(255));
    CHECK_FALSE(parse_dtype("bf16"));
    CHECK_FALSE(parse_dtype(""));
}

TEST_CASE("a header is read in order of offsets, with metadata") {
    const std::string json =
        "{" + tensor("b", "F32", "[2]", 6, 14) + R"(,"__metadata__":{"format":"pt","\u00e9":""},)" +
        tensor("a", "BF16", "[3,1]", 0, 6) + "," + tensor("scalar", "I8", "[]", 14, 15) + "," +
        tensor("none", "F64", "[0,7]", 6, 6) + "}  \n";
    const auto header = parse(json, 15);
    REQUIRE_OK(header);
    const auto& tensors = header.value().tensors;
    REQUIRE(tensors.size() == 4);
    CHECK(tensors[0].name == "a");
    CHECK(tensors[1].name == "none");
    CHECK(tensors[1].bytes == 0);
    CHECK(tensors[2].name == "b");
    CHECK(tensors[2].offset == 6);
    CHECK(tensors[2].bytes == 8);
    CHECK(tensors[3].shape.empty());
    CHECK(header.value().data_offset == 8 + json.size());
    CHECK(header.value().metadata ==
          std::map<std::string, std::string>{{"format", "pt"}, {"\u00e9", ""}});
}

TEST_CASE("what the format's own reader tolerates is read") {
    REQUIRE_OK(parse("{}", 0));
    REQUIRE_OK(parse(R"({"__metadata__":null})", 0));
    REQUIRE_OK(parse(R"({"a":{"x":{"y":[{}]},"dtype":"U8","z":null,"shape":[1],"w":[[1.5]],)"
                     R"("data_offsets":[0,1],"v":"s"}})",
                     1));
}

TEST_CASE("a name or field that occurs twice is refused") {
    const std::string one = tensor("a", "U8", "[1]", 0, 1);
    check_refused("{" + one + "," + one + "}", 1, "tensor 'a' occurs twice");
    check_refused("{" + one + "," + tensor("\\u0061", "U8", "[1]", 1, 2) + "}", 2,
                  "tensor 'a' occurs twice");
    check_refused(R"({"__metadata__":{},"__metadata__":{}})", 0, "metadata occurs twice");
    check_refused(R"({"__metadata__":{"k":"1","k":"2"}})", 0, "metadata key 'k' occurs twice");
    check_refused(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
                  "tensor 'a': dtype occurs twice");
}

TEST_CASE("tensors that overlap, leave a hole or miss the file's end are refused") {
    const std::string a = tensor("a", "U8", "[4]", 0, 4);
    check_refused("{" + a + "," + tensor("b", "U8", "[4]", 3, 7) + "}", 7,
                  "tensor 'b' begins at byte 3 of the data, in another tensor");
    check_refused("{" + a + "," + tensor("b", "U8", "[4]", 0, 4) + "}", 4, "in another tensor");
    check_refused("{" + a + "," + tensor("b", "U8", "[0]", 2, 2) + "}", 4, "in another tensor");
    check_refused("{" + a + "," + tensor("b", "U8", "[4]", 5, 9) + "}", 9, "behind a hole");
    check_refused("{" + tensor("a", "U8", "[4]", 1, 5) + "}", 5, "behind a hole");
    check_refused("{" + a + "}", 3, "tensor 'a' ends at byte");
    check_refused("{" + a + "}", 5, "1 bytes behind its last tensor");
    check_refused("{}", 1, "1 bytes behind its last tensor");
}

TEST_CASE("sizes that overflow or do not match are refused") {
    check_refused("{" + tensor("a", "F32", "[2]", 0, 4) + "}", 4,
                  "tensor 'a' has 4 bytes, but its dtype and shape give 8");
    check_refused("{" + tensor("a", "U8", "[4294967296,4294967296]", 0, 0) + "}", 0,
                  "2^64 or more elements");
    check_refused("{" + tensor("a", "F64", "[4611686018427387904]", 0, 0) + "}", 0,
                  "2^64 or more bits");
    check_refused("{" + tensor("a", "U8", "[18446744073709551616]", 0, 0) + "}", 0,
                  "tensor 'a': shape is not an integer");
    check_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[5,4]}})", 5,
                  "before it begins at byte");
    check_refused("{" + tensor("a", "U8", "[1]", ~0ULL, ~0ULL) + "}", 1, "has 0 bytes");
    check_refused("{" + tensor("a", "F4", "[3]", 0, 1) + "}", 1, "not a whole number of bytes");
    check_refused("{" + tensor("a", "F6_E3M2", "[2]", 0, 2) + "}", 2, "not a whole number");
    const std::uint64_t half = std::uint64_t{1} << 60U;
    std::string many = "{";
    for (std::uint64_t i = 0; i < 15; ++i) {
        many += (i > 0 ? "," : "") + tensor("t" + std::to_string(i), "U8", "[1152921504606846976]",
                                            i * half, i * half + half);
    }
    check_refused(many + "}", 100, "ends at byte");
}

TEST_CASE("values of the wrong kind are refused") {
    check_refused(R"({"a":5})", 0, "tensor 'a' is a number");
    check_refused(R"({"a":[]})", 0, "tensor 'a'");
    check_refused(R"({"a":{}})", 0, "tensor 'a' lacks dtype");
    check_refused(R"({"a":{"dtype":"U8","shape":[]}})", 0, "lacks data_offsets");
    check_refused(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "lacks shape");
    check_refused(R"({"a":{"dtype":"u8","shape":[],"data_offsets":[0,1]}})", 1,
                  "tensor 'a': dtype 'u8' is unknown");
    check_refused(R"({"a":{"dtype":["U8"],"shape":[],"data_offsets":[0,1]}})", 1, "dtype");
    check_refused(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1, "shape");
    check_refused(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1, "shape");
    check_refused(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, "shape");
    check_refused(R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1, "shape");
    check_refused(R"({"a":{"dtype":"U8","shape":{},"data_offsets":[0,1]}})", 1, "shape");
    check_refused(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0]}})", 1, "two numbers");
    check_refused(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1,1]}})", 1, "two numbers");
    check_refused(R"({"__metadata__":{"k":1}})", 0, "the metadata is a number");
    check_refused(R"({"__metadata__":{"k":{}}})", 0, "the metadata is an object");
    check_refused(R"({"__metadata__":"x"})", 0, "the metadata is a string");
    check_refused(R"({"a\u0000b":{}})", 0, "NUL");
}

TEST_CASE("malformed text is refused") {
    for (const std::string json :
         {"", "[]", " {}", "null", "{", "{}}", "{} x", "{\"a\"}", "{\"a\":}", "{'a':1}", "{,}",
          "{\"\xff\":{}}", "{\"\\ud800\":{}}", "{}\x01", "{/**/}"}) {
        check_refused(json, 0, "");
    }
}

TEST_CASE("limits of a header are errors that carry their name") {
    const auto refused_by = [](const std::string& json, const HeaderLimits& limits) {
        const auto header = parse(json, 0, limits);
        return header ? std::string("accepted") : header.error().message;
    };
    const std::string a = tensor("a", "U8", "[0,0,0]", 0, 0);
    const std::string b = tensor("bbbbb", "U8", "[0]", 0, 0);
    const std::string json = "{" + a + "," + b + R"(,"__metadata__":{"x":"","y":""}})";
    CHECK(refused_by(json, {}) == "accepted");
    CHECK_THAT(refused_by(json, {.header_bytes_max = 50}), Contains("header_bytes_max"));
    CHECK_THAT(refused_by(json, {.tensors_max = 1}), Contains("tensors_max"));
    CHECK_THAT(refused_by("{" + a + "," + b + "}", {.name_bytes_max = 4}),
               Contains("name_bytes_max"));
    CHECK_THAT(refused_by(json, {.dimensions_max = 2}), Contains("dimensions_max"));
    CHECK_THAT(refused_by(json, {.metadata_entries_max = 1}), Contains("metadata_entries_max"));
    const std::string nested = R"({"a":{"x":)" + std::string(1'000'000, '[');
    CHECK_THAT(refused_by(nested, {}), Contains("nested deeper"));
    const std::string long_name = "{\"" + std::string(1'000'000, 'n') + "\":{}}";
    CHECK_THAT(refused_by(long_name, {}), Contains("name_bytes_max"));
    CHECK(refused_by(long_name, {}).size() < 400);
}

TEST_CASE("a header is read from a file, and its length is checked before memory is taken") {
    const std::string json = "{" + tensor("a", "U8", "[3]", 0, 3) + "}";
    const auto header =
        read_safetensors_header(file_of(length_of(json.size()) + json + "xyz").get(), "good");
    REQUIRE_OK(header);
    CHECK(header.value().tensors.at(0).bytes == 3);

    const auto refused = [](const std::string& bytes) {
        const auto read = read_safetensors_header(file_of(bytes).get(), "bad");
        return read ? std::string("accepted") : read.error().message;
    };
    CHECK_THAT(refused(""), Contains("'bad' is too short"));
    CHECK_THAT(refused("1234567"), Contains("'bad' is too short"));
    CHECK_THAT(refused(length_of(json.size()) + json + "xy"), Contains("'bad': tensor 'a'"));
    CHECK_THAT(refused(length_of(json.size() + 4) + json + "xyz"), Contains("more than the file"));
    CHECK_THAT(refused(length_of(~0ULL) + json), Contains("header_bytes_max"));
    CHECK_THAT(refused(length_of(100'000'001) + json), Contains("header_bytes_max"));
    CHECK_THAT(refused(length_of(0) + json), Contains("does not begin with '{'"));
    const auto closed = read_safetensors_header(-1, "closed");
    REQUIRE_FALSE(closed);
    CHECK(closed.error().code == Code::io);
    CHECK(closed.error().sys_errno == EBADF);
}

TEST_CASE("a written header is aligned and read back as it was meant") {
    std::vector<TensorEntry> tensors{{"w\"\\\n\u00e9", Dtype::bf16, {2, 3}, 77, 12},
                                     {"empty", Dtype::f32, {0}, 0, 0},
                                     {"f4", Dtype::f4, {2}, 0, 1}};
    const auto written = write_safetensors_header(tensors, {{"format", "pt"}});
    REQUIRE_OK(written);
    const auto& bytes = written.value();
    CHECK(bytes.size() % 4096 == 0);
    CHECK(tensors[0].offset == 0);
    CHECK(tensors[1].offset == 12);
    CHECK(tensors[2].offset == 12);
    std::string file(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const auto header = read_safetensors_header(file_of(file + std::string(13, 'x')).get(), "file");
    REQUIRE_OK(header);
    CHECK(header.value().data_offset == bytes.size());
    REQUIRE(header.value().tensors.size() == 3);
    CHECK(header.value().tensors[0].name == "w\"\\\n\u00e9");
    CHECK(header.value().tensors[0].shape == std::vector<std::uint64_t>{2, 3});
    CHECK(header.value().metadata.at("format") == "pt");
}

TEST_CASE("a header that no reader would take is not written") {
    const auto refused = [](std::vector<TensorEntry> tensors) {
        const auto written = write_safetensors_header(tensors, {});
        return written ? std::string("accepted") : written.error().message;
    };
    const TensorEntry good{"a", Dtype::u8, {1}, 0, 1};
    CHECK(refused({good}) == "accepted");
    CHECK_THAT(refused({good, good}), Contains("tensor 'a' occurs twice"));
    CHECK_THAT(refused({{"a", Dtype::u8, {2}, 0, 1}}), Contains("shape give 2"));
    CHECK_THAT(refused({{"a", Dtype::f4, {1}, 0, 1}}), Contains("whole number of bytes"));
    CHECK(refused({{"\xff", Dtype::u8, {1}, 0, 1}}) != "accepted");
    CHECK(refused({{"__metadata__", Dtype::u8, {1}, 0, 1}}) != "accepted");
    const std::uint64_t most = std::uint64_t{1} << 60U;
    std::vector<TensorEntry> many;
    for (int i = 0; i < 16; ++i) {
        many.push_back({"t" + std::to_string(i), Dtype::u8, {most}, 0, most});
    }
    CHECK_THAT(refused(many), Contains("2^64 or more bytes"));
}

}  // namespace
}  // namespace weightcast::model
