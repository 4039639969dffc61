#include "tools/node_options.h"

#include <fmt/core.h>

#include <fstream>
#include <map>

namespace weightcast::cli {
namespace {

// Lines NAME="VALUE", with Go's escapes in the value, are what the downward API makes of labels:
// https://kubernetes.io/docs/concepts/workloads/pods/downward-api/. Labels have no characters that
// need an escape, so that none is accepted.
Result<void> read_labels(const std::string& path, std::map<std::string, std::string>& labels) {
    std::ifstream file(path);
    if (!file) return Error{Code::io, 0, fmt::format("cannot read the labels in {}", path)};
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
        if (line.empty()) continue;
        const auto equals = line.find('=');
        std::string value = equals == std::string::npos ? "" : line.substr(equals + 1);
        if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
            value = value.substr(1, value.size() - 2);
        }
        if (equals == 0 || equals == std::string::npos ||
            value.find_first_of("\"\\") != std::string::npos) {
            return Error{Code::invalid_input, 0,
                         fmt::format("{}:{}: NAME=VALUE is needed", path, number)};
        }
        if (!value.empty()) labels[line.substr(0, equals)] = value;
    }
    return success();
}

}  // namespace

void add_node_options(boost::program_options::options_description& known, NodeOptions& node) {
    namespace po = boost::program_options;
    known.add_options()("name", po::value(&node.name), "name of this peer");
    known.add_options()("take-over", po::bool_switch(&node.take_over),
                        "replace a living peer of this name");
    known.add_options()("serve-rate-max", po::value(&node.serve_rate_max),
                        "bytes/s to all readers together");
    known.add_options()(
        "label", po::value<std::vector<std::string>>(),
        "NAME=VALUE of this peer (may be repeated); rack=VALUE keeps plans to racks");
    known.add_options()("labels-file", po::value<std::string>(),
                        "file with lines NAME=VALUE or NAME=\"VALUE\", as Kubernetes writes the "
                        "labels of a pod; --label counts more");
    known.add_options()("device", po::value(&node.devices),
                        "RDMA device, NAME[:PORT][@GID_INDEX] (may be repeated; default: the one "
                        "with the --listen address)");
    known.add_options()("traffic-class", po::value<unsigned>(),
                        "of RDMA packets, 0 to 255, DSCP in the upper six bits (default: 0)");
    known.add_options()("out-of-band", po::bool_switch(&node.out_of_band),
                        "connect RDMA without librdmacm, for devices without IP addresses");
    known.add_options()("verbose", "say on stderr which devices, transports and holders are used");
    known.add_options()("token-file", po::value(&node.token_file), "file with the bearer token");
}

Result<void> finish_node_options(const boost::program_options::variables_map& values,
                                 const Program& program, NodeOptions& node) {
    if (values.count("verbose") != 0) set_log(LogLevel::info, program.name);
    if (values.count("labels-file") != 0) {
        WEIGHTCAST_CHECK(read_labels(values["labels-file"].as<std::string>(), node.labels));
    }
    if (values.count("label") != 0) {
        for (const std::string& label : values["label"].as<std::vector<std::string>>()) {
            const auto equals = label.find('=');
            if (equals == 0 || equals == std::string::npos || equals + 1 == label.size()) {
                return Error{Code::invalid_input, 0,
                             fmt::format("--label {}: NAME=VALUE is needed", label)};
            }
            node.labels[label.substr(0, equals)] = label.substr(equals + 1);
        }
    }
    if (values.count("traffic-class") == 0) return success();
    constexpr unsigned kMax = 255;
    const auto traffic_class = values["traffic-class"].as<unsigned>();
    if (traffic_class > kMax) {
        return Error{Code::invalid_input, 0,
                     fmt::format("--traffic-class {}: the greatest is {}", traffic_class, kMax)};
    }
    node.traffic_class = static_cast<std::uint8_t>(traffic_class);
    return success();
}

}  // namespace weightcast::cli
