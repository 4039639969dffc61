#include "plan/distinct_keys.h"

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/json_walk.h"

namespace weightcast::plan {
namespace {

constexpr std::size_t kKeyBytesMax = 64;

class TwiceSink final : public model::JsonSink {
  public:
    explicit TwiceSink(std::size_t fields_max) : fields_max_(fields_max) {}
    bool begin_object() override {
        keys_.emplace_back();
        return true;
    }
    bool end_object() override {
        keys_.pop_back();
        return true;
    }
    bool begin_array() override { return true; }
    bool end_array() override { return true; }
    bool key(std::string_view key) override {
        std::vector<std::string>& keys = keys_.back();
        if (std::find(keys.begin(), keys.end(), key) != keys.end()) {
            problem = fmt::format("field '{}' occurs twice in one object", model::printable(key));
            return false;
        }
        if (keys.size() == fields_max_) {
            problem = fmt::format("an object has more than {} fields", fields_max_);
            return false;
        }
        keys.emplace_back(key);
        return true;
    }
    bool string(std::string_view) override { return true; }
    bool number(std::uint64_t) override { return true; }
    bool other(model::JsonOther, double) override { return true; }

  private:
    std::size_t fields_max_;
    std::vector<std::vector<std::string>> keys_;
};

}  // namespace

Result<void> check_keys_distinct(std::string_view json, std::size_t depth_max,
                                 std::size_t fields_max) {
    TwiceSink sink(fields_max);
    return model::walk_json(json, {depth_max, kKeyBytesMax}, sink);
}

}  // namespace weightcast::plan
