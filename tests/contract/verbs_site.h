// What the tests of the verbs fabric share.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/contract/support.h"

namespace weightcast::contract {

// Runs `body` in a section for each way of connecting, with a site of its own.
inline void on_verbs(const std::function<void(Site&)>& body) { on_every_fabric(body, "verbs"); }

// The first RDMA devices of this host; none, after a warning, if there are fewer.
inline std::vector<std::string> devices_or_skip(std::size_t count) {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/class/infiniband", error)) {
        names.push_back(entry.path().filename().string());
    }
    std::ranges::sort(names);
    if (names.size() >= count) {
        names.resize(count);
        return names;
    }
    WARN("skipped: it takes " << count << " RDMA devices, there are " << names.size());
    return {};
}

}  // namespace weightcast::contract
