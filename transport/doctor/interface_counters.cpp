#include "transport/doctor/interface_counters.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/unique_fd.h"

namespace weightcast::transport::doctor {
namespace {

constexpr std::uint32_t kCountersMax = 65536;

// ethtool's structures end in an array of a length that is known at run time.
class Request {
  public:
    Request(std::size_t header_bytes, std::size_t array_bytes)
        : words_((header_bytes + array_bytes + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t)) {
    }
    template <typename Header>
    Header& as() {
        return *reinterpret_cast<Header*>(words_.data());
    }
    const char* behind(std::size_t header_bytes) const {
        return reinterpret_cast<const char*>(words_.data()) + header_bytes;
    }
    bool run(int fd, const std::string& interface) {
        ::ifreq request{};
        std::copy_n(interface.data(), std::min(interface.size(), sizeof request.ifr_name - 1),
                    request.ifr_name);
        request.ifr_data = reinterpret_cast<char*>(words_.data());
        return ::ioctl(fd, SIOCETHTOOL, &request) == 0;
    }

  private:
    std::vector<std::uint64_t> words_;  // for its alignment
};

// 0 if the driver does not say.
std::uint32_t count_counters(int fd, const std::string& interface) {
    Request request(sizeof(::ethtool_sset_info), sizeof(std::uint32_t));
    auto& header = request.as<::ethtool_sset_info>();
    header.cmd = ETHTOOL_GSSET_INFO;
    header.sset_mask = std::uint64_t{1} << ETH_SS_STATS;
    if (!request.run(fd, interface) || header.sset_mask == 0) return 0;
    std::uint32_t count = 0;
    std::memcpy(&count, request.behind(sizeof header), sizeof count);
    return std::min(count, kCountersMax);
}

}  // namespace

std::vector<Counter> read_counters(const std::string& interface) {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const std::uint32_t count = fd ? count_counters(fd.get(), interface) : 0;
    if (count == 0) return {};
    Request names(sizeof(::ethtool_gstrings), std::size_t{count} * ETH_GSTRING_LEN);
    auto& names_header = names.as<::ethtool_gstrings>();
    names_header.cmd = ETHTOOL_GSTRINGS;
    names_header.string_set = ETH_SS_STATS;
    names_header.len = count;
    Request values(sizeof(::ethtool_stats), count * sizeof(std::uint64_t));
    auto& values_header = values.as<::ethtool_stats>();
    values_header.cmd = ETHTOOL_GSTATS;
    values_header.n_stats = count;
    if (!names.run(fd.get(), interface) || !values.run(fd.get(), interface)) return {};
    std::vector<Counter> counters(std::min({count, names_header.len, values_header.n_stats}));
    for (std::size_t i = 0; i < counters.size(); ++i) {
        const char* name = names.behind(sizeof names_header + i * ETH_GSTRING_LEN);
        counters[i].name.assign(name, ::strnlen(name, ETH_GSTRING_LEN));
        std::memcpy(&counters[i].value,
                    values.behind(sizeof values_header + i * sizeof(std::uint64_t)),
                    sizeof(std::uint64_t));
    }
    return counters;
}

}  // namespace weightcast::transport::doctor
