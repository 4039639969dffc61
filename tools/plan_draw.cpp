#include "tools/plan_draw.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace weightcast::plan_tool {
namespace {

constexpr double kColumn = 110;        // between depths
constexpr std::size_t kNamesMax = 64;  // of ranks; more would not be readable
constexpr std::size_t kRowsMax = 256;
constexpr std::size_t kBands = 16;  // colours of parts
constexpr double kWidth = 1000;
constexpr double kMargin = 60;

// Hues around the circle; neighbours differ well.
std::string colour_of(std::uint32_t index, std::size_t count) {
    const double hue = 360.0 * static_cast<double>(index) / static_cast<double>(count);
    return fmt::format("hsl({:.0f},70%,45%)", hue);
}

void head(std::string& svg, double width, double height) {
    fmt::format_to(std::back_inserter(svg),
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" "
                   "font-family=\"sans-serif\" font-size=\"10\">\n"
                   "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
                   width, height);
}

// Names come from files.
std::string escaped(const std::string& text) {
    std::string safe;
    for (const char c : text) {
        const bool plain = c != '<' && c != '>' && c != '&' && c != '"' && c >= ' ';
        safe += plain ? std::string(1, c) : fmt::format("&#{};", static_cast<unsigned char>(c));
    }
    return safe;
}

// The places of the ranks of one stripe: leaves one below the other, parents amid their readers.
std::vector<double> rows_of(const std::vector<std::uint32_t>& parents, double step,
                            double& height) {
    std::vector<std::vector<std::uint32_t>> readers(parents.size());
    std::vector<std::uint32_t> todo;
    for (std::uint32_t rank = 0; rank < parents.size(); ++rank) {
        if (parents[rank] == kNoParent) {
            todo.push_back(rank);
        } else {
            readers[parents[rank]].push_back(rank);
        }
    }
    // Depth first, each rank before its readers; backwards then, each after them.
    std::vector<std::uint32_t> order;
    std::vector<double> rows(parents.size(), 0);
    while (!todo.empty()) {
        const std::uint32_t rank = todo.back();
        todo.pop_back();
        order.push_back(rank);
        if (readers[rank].empty()) rows[rank] = height += step;
        todo.insert(todo.end(), readers[rank].begin(), readers[rank].end());
    }
    for (auto rank = order.rbegin(); rank != order.rend(); ++rank) {
        if (readers[*rank].empty()) continue;
        double sum = 0;
        for (const std::uint32_t reader : readers[*rank]) sum += rows[reader];
        rows[*rank] = sum / static_cast<double>(readers[*rank].size());
    }
    return rows;
}

void draw_tree(std::string& svg, const plan::Topology& topology, const Trees& trees,
               std::uint32_t stripe, double& height) {
    const auto out = std::back_inserter(svg);
    const bool names = topology.ranks.size() <= kNamesMax;
    height += 20;
    fmt::format_to(out, "<text x=\"10\" y=\"{:.1f}\">stripe {}</text>\n", height, stripe);
    const auto rows = rows_of(trees.parents[stripe], names ? 14 : 4, height);
    const auto x = [&](std::uint32_t rank) { return 20 + kColumn * trees.depths[stripe][rank]; };
    for (std::uint32_t rank = 0; rank < topology.ranks.size(); ++rank) {
        const std::uint32_t parent = trees.parents[stripe][rank];
        if (parent == kNoParent) continue;
        const bool crosses = topology.hosts[topology.ranks[rank].host].rack !=
                             topology.hosts[topology.ranks[parent].host].rack;
        fmt::format_to(out, "<path d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\" stroke=\"{}\"/>\n", x(parent),
                       rows[parent], x(rank), rows[rank], crosses ? "#d00" : "#aaa");
    }
    for (std::uint32_t rank = 0; rank < topology.ranks.size(); ++rank) {
        const plan::RankSpec& spec = topology.ranks[rank];
        fmt::format_to(out,
                       "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\"><title>{}"
                       "</title></circle>\n",
                       x(rank), rows[rank], names ? 4 : 2,
                       colour_of(topology.hosts[spec.host].rack, topology.racks.size()),
                       escaped(spec.name));
        if (!names) continue;
        fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x(rank) + 6,
                       rows[rank] + 3, escaped(spec.name));
    }
}

}  // namespace

std::string draw_trees(const plan::Topology& topology, const Trees& trees) {
    std::string body;
    double height = 0;
    std::uint32_t depth = 0;
    for (std::uint32_t stripe = 0; stripe < trees.parents.size(); ++stripe) {
        draw_tree(body, topology, trees, stripe, height);
        depth = std::max(depth, trees.depth_max(stripe));
    }
    std::string svg;
    head(svg, kColumn * (depth + 1) + 60, height + 30);
    svg += body;
    fmt::format_to(std::back_inserter(svg),
                   "<text x=\"10\" y=\"{:.1f}\">colour: rack; red: from rack to rack</text>\n",
                   height + 22);
    return svg + "</svg>\n";
}

std::string draw_time_space(const sim::SimulationOptions& options, const sim::Outcome& outcome) {
    const std::size_t every = (outcome.receivers.size() - 1) / kRowsMax + 1;
    const std::size_t count = (outcome.receivers.size() - 1) / every + 1;
    const double row = std::clamp(600.0 / static_cast<double>(count), 2.0, 16.0);
    std::vector<double> rows(options.topology.ranks.size(), -1);
    for (std::size_t i = 0; i < outcome.receivers.size(); i += every) {
        const std::size_t number = i / every;
        rows[outcome.receivers[i].rank] = 30 + row * static_cast<double>(number);
    }
    const double end = std::max({outcome.seconds, outcome.bound, 1e-9});
    const auto x = [&](double at) { return kMargin + kWidth * at / end; };
    const double box = std::max(0.5, kWidth * outcome.bound / end / options.chunks);
    const double bottom = 30 + row * static_cast<double>(count);
    std::string svg;
    const auto out = std::back_inserter(svg);
    head(svg, kWidth + 2 * kMargin, bottom + 40);
    fmt::format_to(out,
                   "<text x=\"{}\" y=\"18\">receivers; colour: part, from the first to the "
                   "last of {}</text>\n",
                   kMargin, options.chunks);
    std::array<std::string, kBands> bands;
    for (const sim::Arrival& arrival : outcome.arrivals) {
        if (rows[arrival.rank] < 0) continue;
        const std::size_t band = std::size_t{arrival.chunk} * kBands / options.chunks;
        fmt::format_to(std::back_inserter(bands[band]), "M{:.1f} {:.1f}h{:.1f}",
                       x(arrival.at) - box, rows[arrival.rank] + row / 2, box);
    }
    for (std::uint32_t band = 0; band < kBands; ++band) {
        if (bands[band].empty()) continue;
        fmt::format_to(out, "<path d=\"{}\" stroke=\"{}\" stroke-width=\"{:.1f}\"/>\n", bands[band],
                       colour_of(band, kBands), row * 0.9);
    }
    for (const auto& [at, name] : {std::pair{0.0, "0"}, std::pair{outcome.bound, "bound"}}) {
        fmt::format_to(out,
                       "<path d=\"M{0:.1f} 25V{1:.1f}\" stroke=\"black\"/>"
                       "<text x=\"{0:.1f}\" y=\"{2:.1f}\">{3} {4:.4g} s</text>\n",
                       x(at), bottom + 5, bottom + 18, at == 0.0 ? "start" : name, at);
    }
    fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{:.1f}\">end {:.4g} s</text>\n", x(end) - 30,
                   bottom + 32, outcome.seconds);
    return svg + "</svg>\n";
}

}  // namespace weightcast::plan_tool
