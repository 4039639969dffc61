// What p2p-doctor knows of a host before it judges: gathered by system calls and libraries here,
// made up by tests. The rest it reads from sysfs and procfs, below roots that tests can move.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "transport/doctor/interface_counters.h"
#include "transport/verbs/cuda_driver.h"
#include "transport/verbs/device.h"

namespace weightcast::transport::doctor {

struct Roots {
    std::string sys = "/sys";
    std::string proc = "/proc";
    std::string dev = "/dev";
};

// What may be done with registered memory in a process that forks.
enum class ForkSafety : std::uint8_t { unknown, unneeded, enabled, disabled };

struct RdmaFacts {
    bool built_in = true;  // false: the program was built without rdma-core
    std::string version;   // of the libraries
    std::vector<verbs::Device> devices;
    std::string why_none;                // no device could be asked for at all
    std::vector<std::string> trouble;    // of single devices
    std::map<std::string, bool> dmabuf;  // by device, whether its driver registers dmabufs
    ForkSafety fork = ForkSafety::unknown;
};

struct CudaFacts {
    std::optional<verbs::CudaInventory> inventory;
    std::string why_none;
};

struct UcxFacts {
    bool built_in = true;
    std::string why_none;  // it cannot be loaded
    std::string version;
    std::vector<std::string> transports;  // "rc_mlx5/mlx5_0:1", "tcp/eth0"
};

// An IPv4 address of a network interface.
struct InterfaceAddress {
    std::string interface;
    std::uint32_t address = 0;  // in host byte order
    std::uint32_t mask = 0;
};

struct Facts {
    Roots roots;
    RdmaFacts rdma;
    CudaFacts cuda;
    UcxFacts ucx;
    std::vector<InterfaceAddress> interfaces;
    std::map<std::string, std::vector<Counter>> counters;  // of the interfaces with RoCE
    std::optional<std::uint64_t> memlock_soft;             // bytes; none: unlimited
    std::optional<std::uint64_t> memlock_hard;
    bool may_lock = false;  // CAP_IPC_LOCK: the limit does not count
};

// Asks this host. Initializes CUDA where there is a driver, opens each RDMA device for a moment.
Facts gather_facts();

// Names of the interfaces that RoCE devices send through, sorted.
std::set<std::string> roce_interfaces(const RdmaFacts& rdma);

// Parts of it, each in a source that is built with the library or without.
RdmaFacts gather_rdma();
CudaFacts gather_cuda();
UcxFacts gather_ucx();

}  // namespace weightcast::transport::doctor
