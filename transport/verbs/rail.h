// A rail: one network port that this process reads and serves through.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mapping.h"
#include "base/socket.h"
#include "transport/verbs/device.h"
#include "transport/verbs/handles.h"

namespace weightcast::transport::verbs {

struct RailChoice {
    std::string device;
    bool software = false;
    int read_depth = 1;
    int serve_depth = 1;
    Port port;
    Gid gid;
    bool gid_fixed = false;           // the user named its index
    std::optional<SocketAddress> ip;  // for librdmacm; none: out of band only
    std::string reason;

    std::string name() const { return device + ":" + std::to_string(port.number); }
};

struct RailPlan {
    std::vector<RailChoice> rails;      // at most kRailsMax
    std::vector<std::string> left_out;  // ports that were asked for and cannot be used, with why
};

// Which ports to use: those that `names` names; else the one with the address `listen`; else, if
// that stands for all addresses, every active port with an address that is not link-local.
// `ipoib` gives the address of the IP interface on top of an InfiniBand port, if there is one.
// Errors: invalid_input (a bad name), not_found (no such device, port or GID), unavailable (no port
// that could be used, with each one's reason).
using IpoibLookup = std::optional<SocketAddress> (*)(const GidBytes& gid);
Result<RailPlan> choose_rails(std::span<const Device> devices, std::span<const std::string> names,
                              const std::string& listen, IpoibLookup ipoib);
// The lookup that reads this host's interfaces.
std::optional<SocketAddress> find_ipoib(const GidBytes& gid);

class Rail {
  public:
    // Errors: unavailable, io; both name the device and the call.
    static Result<std::unique_ptr<Rail>> open(const RailChoice& choice);

    const RailChoice& choice() const { return choice_; }
    std::string name() const { return choice_.name(); }
    ::ibv_context* context() const { return context_.get(); }
    ::ibv_pd* domain() const { return domain_.get(); }
    ::ibv_mtu mtu() const { return mtu_; }
    std::uint64_t message_bytes_max() const { return message_bytes_max_; }
    // A page of no meaning, at address 0 for the device: its first bytes are there for the peers'
    // probes, our own probes bring theirs to kProbeLanding.
    static constexpr std::uint64_t kProbeLanding = 2048;
    std::uint32_t probe_key() const { return probe_region_->rkey; }
    std::uint32_t probe_local_key() const { return probe_region_->lkey; }
    int completions_max() const { return completions_max_; }  // of one completion queue

    // False while the port is known to be down. Thread-safe.
    std::atomic<bool> up{true};

  private:
    explicit Rail(RailChoice choice) : choice_(std::move(choice)) {}

    const RailChoice choice_;
    ContextHandle context_;
    DomainHandle domain_;
    Mapping probe_page_;
    RegionHandle probe_region_;
    ::ibv_mtu mtu_ = IBV_MTU_1024;
    std::uint64_t message_bytes_max_ = 0;
    int completions_max_ = 0;
};

}  // namespace weightcast::transport::verbs
