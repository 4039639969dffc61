// The index of a model in several safetensors files: every tensor in one shard, and no other.
#include <algorithm>
#include <cmath>

#include "model/json_walk.h"
#include "model/safetensors.h"

namespace weightcast::model {
namespace {

constexpr std::size_t kFileNameBytesMax = 255;

struct Placement {
    std::string tensor;
    std::string file;
};

bool is_plain_file_name(std::string_view name) {
    return !name.empty() && name.size() <= kFileNameBytesMax && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

// Collects the weight map; of all else only metadata.total_size is looked at.
class IndexSink final : public JsonSink {
  public:
    bool begin_object() override {
        if (depth_ == 2 && section_ == Section::weight_map) return fail_entry();
        if (depth_ == 1 && section_ == Section::weight_map) seen_ = true;
        ++depth_;
        return true;
    }
    bool end_object() override {
        --depth_;
        return true;
    }
    bool begin_array() override {
        if (depth_ == 0) return fail("the index is not an object");
        if (depth_ == 1 && section_ == Section::weight_map) return fail_map();
        if (depth_ == 2 && section_ == Section::weight_map) return fail_entry();
        ++depth_;
        return true;
    }
    bool end_array() override {
        --depth_;
        return true;
    }
    bool key(std::string_view key) override {
        if (depth_ == 1) {
            section_ = key == "weight_map" ? Section::weight_map
                       : key == "metadata" ? Section::metadata
                                           : Section::unknown;
            if (section_ == Section::weight_map && seen_) return fail("weight_map occurs twice");
        } else if (depth_ == 2) {
            key_.assign(key);
        }
        return true;
    }
    bool string(std::string_view value) override {
        if (depth_ == 0) return fail("the index is not an object");
        if (depth_ == 1 && section_ == Section::weight_map) return fail_map();
        if (at_total_size()) return fail_total_size();
        if (depth_ != 2 || section_ != Section::weight_map) return true;
        if (!is_plain_file_name(value)) {
            return fail("tensor '" + printable(key_) + "': '" + printable(value) +
                        "' is not a plain file name");
        }
        placements.push_back({key_, std::string(value)});
        return true;
    }
    bool number(std::uint64_t) override {
        if (at_total_size()) return true;
        return scalar();
    }
    bool other(JsonOther kind, double value) override {
        // Some writers give a whole number with a fraction part, e.g. 1.6e10.
        if (at_total_size()) {
            const bool whole = kind == JsonOther::fraction && value >= 0 &&
                               std::floor(value) == value && std::isfinite(value);
            return whole || fail_total_size();
        }
        return scalar();
    }

    bool seen_map() const { return seen_; }

    std::vector<Placement> placements;

  private:
    enum class Section { unknown, weight_map, metadata };

    bool at_total_size() const {
        return depth_ == 2 && section_ == Section::metadata && key_ == "total_size";
    }
    bool scalar() {
        if (depth_ == 0) return fail("the index is not an object");
        if (section_ != Section::weight_map) return true;
        return depth_ == 1 ? fail_map() : fail_entry();
    }
    bool fail(std::string text) {
        problem = std::move(text);
        return false;
    }
    bool fail_map() { return fail("weight_map is not an object"); }
    bool fail_entry() {
        return fail("tensor '" + printable(key_) + "': its file is not given as a string");
    }
    bool fail_total_size() { return fail("metadata.total_size is not a whole number"); }

    std::size_t depth_ = 0;
    Section section_ = Section::unknown;
    std::string key_;
    bool seen_ = false;
};

Result<void> check_placements(const std::vector<Placement>& placements,
                              const std::map<std::string, const SafetensorsHeader*>& shards) {
    for (std::size_t i = 0; i + 1 < placements.size(); ++i) {
        if (placements[i].tensor == placements[i + 1].tensor) {
            return invalid_input("tensor '" + printable(placements[i].tensor) +
                                 "' occurs twice in weight_map");
        }
    }
    for (const Placement& placement : placements) {
        if (!shards.contains(placement.file)) {
            return invalid_input("tensor '" + printable(placement.tensor) +
                                 "': there is no shard '" + printable(placement.file) + "'");
        }
    }
    return success();
}

}  // namespace

Result<void> check_shard_index(std::string_view json,
                               const std::map<std::string, const SafetensorsHeader*>& shards) {
    const HeaderLimits limits;
    if (json.size() > limits.header_bytes_max) {
        return invalid_input("the index has " + std::to_string(json.size()) + " bytes, more than " +
                             std::to_string(limits.header_bytes_max) + " (header_bytes_max)");
    }
    IndexSink sink;
    const JsonLimits json_limits{.depth_max = 16, .key_bytes_max = limits.name_bytes_max};
    WEIGHTCAST_CHECK(walk_json(json, json_limits, sink));
    if (!sink.seen_map()) return invalid_input("the index has no weight_map");
    std::vector<Placement>& placements = sink.placements;
    std::sort(placements.begin(), placements.end(),
              [](const Placement& a, const Placement& b) { return a.tensor < b.tensor; });
    WEIGHTCAST_CHECK(check_placements(placements, shards));

    std::vector<bool> held(placements.size());
    for (const auto& [file, header] : shards) {
        for (const TensorEntry& tensor : header->tensors) {
            const auto found = std::lower_bound(
                placements.begin(), placements.end(), tensor.name,
                [](const Placement& a, const std::string& name) { return a.tensor < name; });
            if (found == placements.end() || found->tensor != tensor.name) {
                return invalid_input("tensor '" + printable(tensor.name) + "' of shard '" +
                                     printable(file) + "' is not in weight_map");
            }
            if (found->file != file) {
                return invalid_input("tensor '" + printable(tensor.name) + "' is in shard '" +
                                     printable(file) + "', but weight_map says '" +
                                     printable(found->file) + "'");
            }
            held[static_cast<std::size_t>(found - placements.begin())] = true;
        }
    }
    const auto missing = std::find(held.begin(), held.end(), false);
    if (missing == held.end()) return success();
    const Placement& placement = placements[static_cast<std::size_t>(missing - held.begin())];
    return invalid_input("tensor '" + printable(placement.tensor) + "' is not in shard '" +
                         printable(placement.file) + "'");
}

}  // namespace weightcast::model
