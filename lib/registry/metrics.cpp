#include "registry/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace weightcast::registry {
namespace {

void head(std::string& text, std::string_view name, std::string_view type, std::string_view help) {
    fmt::format_to(std::back_inserter(text), "# HELP weightcast_registry_{} {}\n", name, help);
    fmt::format_to(std::back_inserter(text), "# TYPE weightcast_registry_{} {}\n", name, type);
}

void one(std::string& text, std::string_view name, std::string_view type, std::string_view help,
         std::uint64_t value) {
    head(text, name, type, help);
    fmt::format_to(std::back_inserter(text), "weightcast_registry_{} {}\n", name, value);
}

}  // namespace

void Metrics::observe(std::string_view route, int status, double seconds) {
    ++requests_[{route, status}];
    Histogram& histogram = seconds_[route];
    const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
    ++histogram.counts[static_cast<std::size_t>(bucket - kBounds.begin())];
    histogram.sum += seconds;
    ++histogram.count;
}

std::string Metrics::text(const StateCounts& counts, const StoreStats& store) const {
    std::string text;
    const auto out = std::back_inserter(text);
    head(text, "requests_total", "counter", "Requests answered, by route and status.");
    for (const auto& [key, count] : requests_) {
        fmt::format_to(out, "weightcast_registry_requests_total{{route=\"{}\",status=\"{}\"}} {}\n",
                       key.first, key.second, count);
    }
    head(text, "request_seconds", "histogram", "From the end of the head to the reply.");
    for (const auto& [route, histogram] : seconds_) {
        std::uint64_t below = 0;
        for (std::size_t i = 0; i < kBounds.size(); ++i) {
            below += histogram.counts[i];
            fmt::format_to(
                out, "weightcast_registry_request_seconds_bucket{{route=\"{}\",le=\"{}\"}} {}\n",
                route, kBounds[i], below);
        }
        fmt::format_to(
            out, "weightcast_registry_request_seconds_bucket{{route=\"{}\",le=\"+Inf\"}} {}\n",
            route, histogram.count);
        fmt::format_to(out, "weightcast_registry_request_seconds_sum{{route=\"{}\"}} {}\n", route,
                       histogram.sum);
        fmt::format_to(out, "weightcast_registry_request_seconds_count{{route=\"{}\"}} {}\n", route,
                       histogram.count);
    }
    one(text, "peers", "gauge", "Living peers.", counts.peers);
    one(text, "peers_expired_total", "counter", "Peers whose lease ended.", counts.expired_peers);
    one(text, "holdings", "gauge", "Versions held, summed over peers.", counts.holdings);
    one(text, "read_leases", "gauge", "Open pulls.", counts.pulls);
    one(text, "models", "gauge", "Models.", counts.models);
    one(text, "versions", "gauge", "Versions of all models.", counts.versions);
    one(text, "plans_total", "counter", "Plans that were made for readers that came together.",
        counts.plans);
    one(text, "readers_disconnected_total", "counter",
        "Readers out of the plan since their connection ended.", counts.readers_disconnected);
    one(text, "reports_total", "counter", "Complaints about holders.", counts.reports);
    one(text, "quarantines_total", "counter", "Holders quarantined.", counts.quarantines);
    one(text, "pulls_completed_total", "counter", "Pulls closed as complete.",
        counts.completed_pulls);
    one(text, "pulls_failed_total", "counter", "Pulls closed without all bytes.",
        counts.failed_pulls);
    one(text, "bytes_pulled_total", "counter", "Bytes that closed pulls have read.",
        counts.bytes_pulled);
    one(text, "event_subscribers", "gauge", "Open event streams.", event_subscribers);
    one(text, "connections", "gauge", "Open connections.", connections);
    one(text, "connections_refused_total", "counter", "Connections refused by a limit.",
        connections_refused);
    one(text, "late_ticks_total", "counter", "Times the registry stood still for a while.",
        late_ticks);
    one(text, "store_commits_total", "counter", "Transactions since the start.", store.commits);
    one(text, "store_changes_total", "counter", "Durable changes since the start.", store.changes);
    one(text, "manifest_bytes_total", "counter", "Bytes of manifests stored since the start.",
        store.manifest_bytes);
    return text;
}

}  // namespace weightcast::registry
