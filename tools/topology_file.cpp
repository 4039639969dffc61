#include "tools/topology_file.h"

#include <fmt/core.h>

#include <fstream>
#include <sstream>

namespace weightcast::cli {

Result<plan::Topology> read_topology(const std::string& path, bool needs_source) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) return Error{Code::io, 0, fmt::format("cannot read the topology {}", path)};
    return plan::parse_topology(text.str(), needs_source);
}

}  // namespace weightcast::cli
