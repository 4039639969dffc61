// Goal: an index is accepted only if it says of every tensor in which shard it is.
#include "model/safetensors.h"
#include "tests/kit/catch.h"

namespace weightcast::model {
namespace {

using Catch::Matchers::Contains;

SafetensorsHeader shard(const std::vector<std::string>& names) {
    SafetensorsHeader header;
    for (const std::string& name : names) header.tensors.emplace_back().name = name;
    return header;
}

// The verdict on an index over shards m-1 = {b, a} and m-2 = {c}.
std::string verdict(const std::string& json) {
    const SafetensorsHeader first = shard({"b", "a"});
    const SafetensorsHeader second = shard({"c"});
    const auto checked = check_shard_index(json, {{"m-1", &first}, {"m-2", &second}});
    if (checked) return "accepted";
    CHECK(checked.error().code == Code::invalid_input);
    return checked.error().message;
}

TEST_CASE("an index that matches its shards is accepted, whatever else it says") {
    const std::string map = R"("weight_map":{"c":"m-2","a":"m-1","b":"m-1"})";
    CHECK(verdict("{" + map + "}") == "accepted");
    CHECK(verdict(R"({"metadata":{"total_size":12},)" + map + "}") == "accepted");
    CHECK(verdict(R"({"metadata":{"total_size":1.2e10,"z":{"weight_map":1}},)" + map + "}") ==
          "accepted");
    CHECK(verdict("{" + map + R"(,"x":[1,[2]],"y":{"c":"../"},"metadata":null})") == "accepted");
}

TEST_CASE("an index that does not match its shards is refused, naming the tensor or file") {
    CHECK_THAT(verdict(R"({"weight_map":{"c":"m-2","a":"m-1"}})"),
               Contains("tensor 'b' of shard 'm-1' is not in weight_map"));
    CHECK_THAT(verdict(R"({"weight_map":{"c":"m-2","a":"m-1","b":"m-2"}})"),
               Contains("tensor 'b' is in shard 'm-1', but weight_map says 'm-2'"));
    CHECK_THAT(verdict(R"({"weight_map":{"c":"m-2","a":"m-1","b":"m-1","d":"m-2"}})"),
               Contains("tensor 'd' is not in shard 'm-2'"));
    CHECK_THAT(verdict(R"({"weight_map":{"c":"m-3","a":"m-1","b":"m-1"}})"),
               Contains("there is no shard 'm-3'"));
    CHECK_THAT(verdict(R"({"weight_map":{"c":"m-2","a":"m-1","b":"m-1","a":"m-1"}})"),
               Contains("tensor 'a' occurs twice"));
    CHECK_THAT(verdict(R"({"weight_map":{"c":"m-2","a":"m-1","b":"m-1"},"weight_map":{}})"),
               Contains("weight_map occurs twice"));
}

TEST_CASE("a tensor in two shards is refused") {
    const SafetensorsHeader first = shard({"a"});
    const SafetensorsHeader second = shard({"a"});
    const auto checked =
        check_shard_index(R"({"weight_map":{"a":"x"}})", {{"x", &first}, {"y", &second}});
    REQUIRE_FALSE(checked);
    CHECK_THAT(checked.error().message, Contains("tensor 'a' is in shard 'y'"));
}

TEST_CASE("file names that could leave the directory are refused") {
    for (const std::string name :
         {"", ".", "..", "/m-1", "d/m-1", "../m-1", "d\\\\m-1", "m-1\\u0000"}) {
        CAPTURE(name);
        CHECK_THAT(verdict(R"({"weight_map":{"c":"m-2","a":"m-1","b":")" + name + R"("}})"),
                   Contains("tensor 'b'") && Contains("is not a plain file name"));
    }
    CHECK_THAT(verdict(R"({"weight_map":{"a":")" + std::string(256, 'f') + R"("}})"),
               Contains("is not a plain file name"));
}

TEST_CASE("malformed indexes are refused") {
    CHECK_THAT(verdict("{}"), Contains("no weight_map"));
    CHECK_THAT(verdict("[]"), Contains("not an object"));
    CHECK_THAT(verdict("1"), Contains("not an object"));
    CHECK_THAT(verdict("\"weight_map\""), Contains("not an object"));
    CHECK_THAT(verdict(R"({"weight_map":[]})"), Contains("weight_map is not an object"));
    CHECK_THAT(verdict(R"({"weight_map":"m"})"), Contains("weight_map is not an object"));
    CHECK_THAT(verdict(R"({"weight_map":null})"), Contains("weight_map is not an object"));
    for (const std::string value : {"1", "null", "true", "-1", "[]", "{}"}) {
        CAPTURE(value);
        CHECK_THAT(verdict(R"({"weight_map":{"a":)" + value + "}}"),
                   Contains("tensor 'a': its file is not given as a string"));
    }
    for (const std::string value : {"-1", "1.5", "\"12\"", "null", "1e999"}) {
        CAPTURE(value);
        CHECK(verdict(R"({"metadata":{"total_size":)" + value +
                      R"(},"weight_map":{"c":"m-2","a":"m-1","b":"m-1"}})") != "accepted");
    }
    CHECK_THAT(verdict(std::string(100000, '[')), Contains(""));
    CHECK_THAT(verdict(R"({"x":)" + std::string(100000, '[')), Contains("nested deeper"));
}

}  // namespace
}  // namespace weightcast::model
