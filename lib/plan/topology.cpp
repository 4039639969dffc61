#include "plan/topology.h"

#include <fmt/core.h>

#include <algorithm>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <initializer_list>
#include <optional>
#include <unordered_map>

#include "model/json_walk.h"
#include "plan/distinct_keys.h"
#include "plan/rate.h"

namespace weightcast::plan {
namespace {

namespace json = boost::json;
using model::printable;

constexpr std::uint64_t kRanksMax = 1'000'000;  // and racks, and hosts
constexpr std::size_t kNameBytesMax = 256;
constexpr std::size_t kTextBytesMax = std::size_t{256} << 20U;
constexpr std::size_t kFieldsMax = 16;  // of an object; more than any here has
constexpr std::size_t kDepthMax = 4;

Error invalid(const std::string& where, std::string_view what) {
    return {Code::invalid_input, 0, fmt::format("topology: {}: {}", where, what)};
}

// One object of a list, and where it stands.
class Entry {
  public:
    Entry(const json::object& object, std::string where)
        : object_(object), where_(std::move(where)) {}

    Error wrong(std::string_view field, std::string_view what) const {
        return invalid(fmt::format("{}.{}", where_, field), what);
    }
    bool has(std::string_view field) const { return object_.contains(field); }

    Result<void> only(std::initializer_list<std::string_view> known) const {
        for (const auto& field : object_) {
            const std::string_view name = field.key();
            if (std::find(known.begin(), known.end(), name) == known.end()) {
                return wrong(printable(name), "is not a field of this object");
            }
        }
        return success();
    }
    Result<std::string> name(std::string_view field) const {
        const json::value* value = object_.if_contains(field);
        if (value == nullptr) return wrong(field, "is missing");
        const json::string* text = value->if_string();
        if (text == nullptr || text->empty() || text->size() > kNameBytesMax) {
            return wrong(field, fmt::format("is not a text of 1 to {} bytes", kNameBytesMax));
        }
        return std::string(*text);
    }
    Result<std::uint64_t> count(std::string_view field) const {
        const json::value* value = object_.if_contains(field);
        if (value == nullptr) return 1;
        boost::system::error_code failed;
        const auto count = value->to_number<std::uint64_t>(failed);
        if (!value->is_number() || value->is_double() || failed || count < 1 || count > kRanksMax) {
            return wrong(field, fmt::format("is not a number from 1 to {}", kRanksMax));
        }
        return count;
    }
    Result<bool> flag(std::string_view field) const {
        const json::value* value = object_.if_contains(field);
        if (value == nullptr) return false;
        if (!value->is_bool()) return wrong(field, "is not true or false");
        return value->get_bool();
    }
    Result<double> rate(std::string_view field) const {
        const json::value* value = object_.if_contains(field);
        if (value == nullptr) return 0.0;
        std::optional<double> rate;
        if (const json::string* text = value->if_string()) {
            rate = parse_rate(*text);
        } else if (value->is_number()) {
            boost::system::error_code failed;
            const auto number = value->to_number<double>(failed);
            if (!failed && is_rate(number)) rate = number;
        }
        if (!rate) return wrong(field, kRateWanted);
        return *rate;
    }
    // Both ways at once, or each by itself.
    Result<void> rates(std::string_view both, double& up, double& down) const {
        if (has(both) && (has("up") || has("down"))) {
            return wrong(both, "stands beside 'up' or 'down'");
        }
        WEIGHTCAST_TRY(up, rate(has(both) ? both : "up"));
        WEIGHTCAST_TRY(down, rate(has(both) ? both : "down"));
        return success();
    }

  private:
    const json::object& object_;
    std::string where_;
};

using Index = std::unordered_map<std::string, std::uint32_t>;

class TopologyReader {
  public:
    Result<Topology> read(const json::object& root, bool needs_source) {
        for (const auto& field : root) {
            const std::string_view name = field.key();
            if (name != "racks" && name != "hosts" && name != "ranks" && name != "sources") {
                return invalid(printable(name), "is not a field of a topology");
            }
        }
        if (root.contains("racks")) {
            WEIGHTCAST_CHECK(read_list(root, "racks", &TopologyReader::add_racks));
        } else {
            topology_.racks.push_back({"rack", 0, 0});
            racks_.emplace("rack", 0);
        }
        own_hosts_ = !root.contains("hosts");
        if (!own_hosts_) WEIGHTCAST_CHECK(read_list(root, "hosts", &TopologyReader::add_hosts));
        WEIGHTCAST_CHECK(read_list(root, "ranks", &TopologyReader::add_ranks));
        WEIGHTCAST_CHECK(read_sources(root));
        const auto& ranks = topology_.ranks;
        const bool source = std::any_of(ranks.begin(), ranks.end(),
                                        [](const RankSpec& rank) { return rank.source; });
        if (needs_source && !source) return invalid("ranks", "none of them is a source");
        return std::move(topology_);
    }

  private:
    using Add = Result<void> (TopologyReader::*)(const Entry&);

    Result<void> read_list(const json::object& root, std::string_view list, Add add) {
        const json::value* value = root.if_contains(list);
        const json::array* entries = value == nullptr ? nullptr : value->if_array();
        if (entries == nullptr || entries->empty()) {
            return invalid(std::string(list), "is not a list of one or more objects");
        }
        for (std::size_t i = 0; i < entries->size(); ++i) {
            const std::string where = fmt::format("{}[{}]", list, i);
            const json::object* object = (*entries)[i].if_object();
            if (object == nullptr) return invalid(where, "is not an object");
            WEIGHTCAST_CHECK((this->*add)(Entry(*object, where)));
        }
        return success();
    }

    Result<void> add_racks(const Entry& entry) {
        WEIGHTCAST_CHECK(entry.only({"name", "count", "uplink", "up", "down"}));
        RackSpec rack;
        WEIGHTCAST_CHECK(entry.rates("uplink", rack.up, rack.down));
        return repeat(entry, "", racks_, topology_.racks, rack);
    }

    Result<void> add_hosts(const Entry& entry) {
        WEIGHTCAST_CHECK(entry.only({"name", "count", "per_rack", "rack", "local"}));
        HostSpec host;
        WEIGHTCAST_TRY(host.local, entry.rate("local"));
        return repeat_in(entry, "rack", "per_rack", topology_.racks, racks_, hosts_,
                         topology_.hosts, host, &HostSpec::rack);
    }

    Result<void> add_ranks(const Entry& entry) {
        RankSpec rank;
        WEIGHTCAST_CHECK(entry.rates("port", rank.up, rank.down));
        WEIGHTCAST_TRY(rank.source, entry.flag("source"));
        if (!own_hosts_) {
            WEIGHTCAST_CHECK(
                entry.only({"name", "count", "per_host", "host", "port", "up", "down", "source"}));
            return repeat_in(entry, "host", "per_host", topology_.hosts, hosts_, ranks_,
                             topology_.ranks, rank, &RankSpec::host);
        }
        WEIGHTCAST_CHECK(
            entry.only({"name", "count", "per_rack", "rack", "port", "up", "down", "source"}));
        const std::size_t before = topology_.hosts.size();
        WEIGHTCAST_CHECK(repeat_in(entry, "rack", "per_rack", topology_.racks, racks_, hosts_,
                                   topology_.hosts, HostSpec(), &HostSpec::rack));
        for (std::size_t i = before; i < topology_.hosts.size(); ++i) {
            rank.name = topology_.hosts[i].name;
            rank.host = static_cast<std::uint32_t>(i);
            ranks_.emplace(rank.name, static_cast<std::uint32_t>(i));
            topology_.ranks.push_back(rank);
        }
        return success();
    }

    static Result<void> check_room(const Entry& entry, std::string_view field, std::size_t before,
                                   std::uint64_t more) {
        if (before + more <= kRanksMax) return success();
        return entry.wrong(field, fmt::format("makes more than {} in all", kRanksMax));
    }

    // Adds `spec` `count` times, under the entry's name and, if counted, a number.
    template <typename Spec>
    Result<void> repeat(const Entry& entry, const std::string& prefix, Index& index,
                        std::vector<Spec>& list, Spec spec, std::string_view counted = "count") {
        WEIGHTCAST_TRY(const std::string name, entry.name("name"));
        WEIGHTCAST_TRY(const std::uint64_t count, entry.count(counted));
        WEIGHTCAST_CHECK(check_room(entry, counted, list.size(), count));
        for (std::uint64_t i = 0; i < count; ++i) {
            spec.name = entry.has(counted) ? fmt::format("{}{}{}", prefix, name, i) : prefix + name;
            if (spec.name.size() > kNameBytesMax) {
                return entry.wrong("name", fmt::format("gets longer than {} bytes", kNameBytesMax));
            }
            if (!index.emplace(spec.name, static_cast<std::uint32_t>(list.size())).second) {
                return entry.wrong("name", fmt::format("'{}' occurs twice", printable(spec.name)));
            }
            list.push_back(spec);
        }
        return success();
    }

    // The same in the place that the entry names, in the only one, or in each.
    template <typename Place, typename Spec>
    Result<void> repeat_in(const Entry& entry, std::string_view where, std::string_view per,
                           const std::vector<Place>& places, const Index& known, Index& index,
                           std::vector<Spec>& list, Spec spec, std::uint32_t Spec::*place) {
        if (!entry.has(per)) {
            if (!entry.has(where) && places.size() != 1) return entry.wrong(where, "is missing");
            if (entry.has(where)) {
                WEIGHTCAST_TRY(const std::string name, entry.name(where));
                const auto found = known.find(name);
                if (found == known.end()) {
                    return entry.wrong(where, fmt::format("there is no '{}'", printable(name)));
                }
                spec.*place = found->second;
            }
            return repeat(entry, "", index, list, spec);
        }
        if (entry.has(where) || entry.has("count")) {
            return entry.wrong(per, fmt::format("stands beside '{}' or 'count'", where));
        }
        WEIGHTCAST_TRY(const std::uint64_t count, entry.count(per));
        WEIGHTCAST_CHECK(check_room(entry, per, list.size(), places.size() * count));
        for (std::size_t i = 0; i < places.size(); ++i) {
            spec.*place = static_cast<std::uint32_t>(i);
            WEIGHTCAST_CHECK(repeat(entry, places[i].name + ".", index, list, spec, per));
        }
        return success();
    }

    Result<void> read_sources(const json::object& root) {
        const json::value* value = root.if_contains("sources");
        if (value == nullptr) return success();
        const json::array* names = value->if_array();
        if (names == nullptr) return invalid("sources", "is not a list of names");
        for (std::size_t i = 0; i < names->size(); ++i) {
            const json::string* name = (*names)[i].if_string();
            const auto found = name == nullptr ? ranks_.end() : ranks_.find(std::string(*name));
            if (found == ranks_.end()) {
                return invalid(fmt::format("sources[{}]", i), "is not the name of a rank");
            }
            topology_.ranks[found->second].source = true;
        }
        return success();
    }

    Topology topology_;
    Index racks_;
    Index hosts_;
    Index ranks_;
    bool own_hosts_ = false;  // each rank is on a host of its own
};

}  // namespace

Result<Topology> parse_topology(std::string_view text, bool needs_source) {
    if (text.size() > kTextBytesMax) {
        return invalid("its text", fmt::format("has more than {} bytes", kTextBytesMax));
    }
    WEIGHTCAST_CHECK(check_keys_distinct(text, kDepthMax, kFieldsMax));
    json::monotonic_resource memory;
    boost::system::error_code failed;
    json::parse_options options;
    options.max_depth = kDepthMax;
    const json::value root = json::parse(text, failed, &memory, options);
    if (failed) return invalid("its text", failed.message());
    const json::object* object = root.if_object();
    if (object == nullptr) return invalid("its text", "is not an object");
    return TopologyReader().read(*object, needs_source);
}

}  // namespace weightcast::plan
