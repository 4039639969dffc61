#include "transport/doctor/peer_wire.h"

#include <fmt/core.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/hex.h"

namespace weightcast::transport::doctor {
namespace {

namespace json = boost::json;

constexpr std::string_view kProtocol = "weightcast-doctor-1";
constexpr std::size_t kNameBytesMax = 32;
constexpr std::size_t kAddressBytesMax = 512;
constexpr std::size_t kTextBytesMax = 1024;
constexpr std::size_t kFabricBytesMax =
    kNameBytesMax + kAddressBytesMax + 2 * fabric::kRegionKeyBytesMax + 64;
static_assert(kFabricsMax * kFabricBytesMax < kLineBytesMax && kTextBytesMax < kFabricBytesMax);
constexpr double kNumberMax = 1e15;  // of bytes/s and of microseconds

Error bad(std::string_view what) {
    return {Code::invalid_input, 0, fmt::format("the peer's message has no proper {}", what)};
}

// A text of the peer's for people: nothing in it can drive a terminal or break a line of JSON.
std::string printable(std::string_view text) {
    std::string result(text.substr(0, kTextBytesMax));
    std::replace_if(
        result.begin(), result.end(), [](unsigned char c) { return c < ' ' || c > '~'; }, '?');
    return result;
}

std::string_view text_of(const json::object& object, std::string_view name) {
    const json::value* const value = object.if_contains(name);
    if (value == nullptr || !value->is_string()) return {};
    return value->get_string();
}

bool is_name(std::string_view text) {
    return !text.empty() && text.size() <= kNameBytesMax &&
           std::all_of(text.begin(), text.end(),
                       [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}

bool is_address(std::string_view text) {
    return !text.empty() && text.size() <= kAddressBytesMax &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

Result<json::object> parse_object(std::string_view line) {
    if (line.size() > kLineBytesMax) return bad("length");
    boost::system::error_code failure;
    json::parse_options options;
    options.max_depth = 4;
    json::value value = json::parse(line, failure, {}, options);
    if (failure || !value.is_object()) return bad("form: it is no JSON object");
    json::object object = std::move(value.get_object());
    if (const auto refusal = text_of(object, "error"); !refusal.empty()) {
        return Error{Code::refused, 0, "the peer says: " + printable(refusal)};
    }
    return object;
}

Result<const json::array*> list_of(const json::object& object, std::string_view name) {
    const json::value* const value = object.if_contains(name);
    if (value == nullptr || !value->is_array()) return bad(name);
    if (value->get_array().size() > kFabricsMax) return bad(name);
    for (const json::value& one : value->get_array()) {
        if (!one.is_object()) return bad(name);
    }
    return &value->get_array();
}

Result<OfferedFabric> decode_fabric(const json::object& object) {
    OfferedFabric fabric;
    if (!is_name(text_of(object, "fabric"))) return bad("fabric");
    fabric.name = text_of(object, "fabric");
    fabric.error = printable(text_of(object, "error"));
    if (!fabric.error.empty()) return fabric;
    if (!is_address(text_of(object, "address"))) return bad("address");
    fabric.address = text_of(object, "address");
    auto key = from_hex(text_of(object, "key"));
    if (!key || key->empty() || key->size() > fabric::kRegionKeyBytesMax) return bad("key");
    fabric.key = std::move(*key);
    return fabric;
}

Result<double> number_of(const json::object& object, std::string_view name) {
    const json::value* const value = object.if_contains(name);
    if (value == nullptr || !value->is_number()) return bad(name);
    const double number = value->to_number<double>();
    if (!(number >= 0 && number <= kNumberMax)) return bad(name);
    return number;
}

}  // namespace

std::string encode(const Offer& offer) {
    json::array fabrics;
    for (const OfferedFabric& one : offer.fabrics) {
        if (one.error.empty()) {
            fabrics.push_back(json::object{
                {"fabric", one.name}, {"address", one.address}, {"key", to_hex(one.key)}});
        } else {
            fabrics.push_back(json::object{{"fabric", one.name}, {"error", printable(one.error)}});
        }
    }
    return json::serialize(json::object{{"protocol", kProtocol},
                                        {"incarnation", to_hex(offer.incarnation)},
                                        {"seed", offer.seed},
                                        {"fabrics", std::move(fabrics)}});
}

std::string encode(const std::vector<ReadReport>& reports) {
    json::array reads;
    for (const ReadReport& one : reports) {
        reads.push_back(json::object{{"fabric", one.fabric},
                                     {"error", printable(one.error)},
                                     {"bytes_per_second", one.bytes_per_second},
                                     {"latency_us", one.latency_us}});
    }
    return json::serialize(json::object{{"reads", std::move(reads)}});
}

std::string encode_refusal(const std::string& why) {
    return json::serialize(json::object{{"error", printable(why)}});
}

Result<Offer> decode_offer(std::string_view line) {
    WEIGHTCAST_TRY(const json::object object, parse_object(line));
    if (text_of(object, "protocol") != kProtocol) return bad("protocol");
    Offer offer;
    const auto incarnation = from_hex(text_of(object, "incarnation"));
    if (!incarnation || incarnation->size() != offer.incarnation.size()) return bad("incarnation");
    std::copy(incarnation->begin(), incarnation->end(), offer.incarnation.begin());
    const json::value* const seed = object.if_contains("seed");
    boost::system::error_code failure;
    if (seed != nullptr) offer.seed = seed->to_number<std::uint64_t>(failure);
    if (seed == nullptr || failure) return bad("seed");
    WEIGHTCAST_TRY(const json::array* const fabrics, list_of(object, "fabrics"));
    for (const json::value& one : *fabrics) {
        WEIGHTCAST_TRY(OfferedFabric fabric, decode_fabric(one.get_object()));
        offer.fabrics.push_back(std::move(fabric));
    }
    return offer;
}

Result<std::vector<ReadReport>> decode_reports(std::string_view line) {
    WEIGHTCAST_TRY(const json::object object, parse_object(line));
    WEIGHTCAST_TRY(const json::array* const reads, list_of(object, "reads"));
    std::vector<ReadReport> reports;
    for (const json::value& one : *reads) {
        const json::object& read = one.get_object();
        ReadReport report;
        if (!is_name(text_of(read, "fabric"))) return bad("fabric");
        report.fabric = text_of(read, "fabric");
        report.error = printable(text_of(read, "error"));
        WEIGHTCAST_TRY(report.bytes_per_second, number_of(read, "bytes_per_second"));
        WEIGHTCAST_TRY(report.latency_us, number_of(read, "latency_us"));
        reports.push_back(std::move(report));
    }
    return reports;
}

}  // namespace weightcast::transport::doctor
