// Goal: the doctor's findings say what works, what does not and what to do about it. Method:
// made-up facts, and made-up trees in the place of sysfs, procfs and /dev.
#include <algorithm>
#include <filesystem>

#include "tests/kit/catch.h"
#include "tests/kit/scratch.h"
#include "transport/doctor/examine.h"

namespace {

using namespace weightcast::transport;
using doctor::Facts;
using doctor::Finding;
using doctor::Severity;

verbs::GidBytes ipv4(std::uint8_t last) {
    verbs::GidBytes gid{};
    gid[10] = gid[11] = std::byte{0xff};
    gid[12] = std::byte{10};
    gid[15] = std::byte{last};
    return gid;
}

verbs::Device make_device(const std::string& name, const std::string& pci,
                          const std::string& netdev, std::uint8_t address) {
    verbs::Device device;
    device.name = name;
    device.firmware = "20.35.1012";
    device.pci = pci;
    device.read_depth = 16;
    verbs::Port port;
    port.active = true;
    port.state = "active";
    port.link_layer = verbs::LinkLayer::ethernet;
    port.rate = 50'000'000'000;
    port.mtu = port.mtu_max = 4096;
    port.gids = {{3, ipv4(address), verbs::GidType::roce_v2, netdev}};
    device.ports = {port};
    return device;
}

// A host on which all is well, with one device.
struct Host {
    weightcast::kit::Scratch root;
    Facts facts;
    std::vector<Finding> findings;

    Host() {
        facts.roots = {root.path("sys"), root.path("proc"), root.path("dev")};
        facts.rdma.version = "libibverbs 1.14.44.0";
        facts.rdma.devices = {make_device("mlx5_0", "0000:3b:00.0", "eth0", 1)};
        facts.rdma.dmabuf["mlx5_0"] = true;
        facts.rdma.fork = doctor::ForkSafety::unneeded;
        facts.ucx.version = "1.13.1";
        root.write("proc/sys/kernel/osrelease", "6.1.0-56-amd64\n");
        root.write("proc/meminfo", "MemTotal:       1048576 kB\nMemFree: 1 kB\n");
        root.write("dev/infiniband/rdma_cm", "");
        root.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    }
    verbs::Port& port() { return facts.rdma.devices[0].ports[0]; }
    void add_pci(const std::string& path, const std::string& vendor, const std::string& kind) {
        const std::string device = "sys/devices/" + path;
        root.write(device + "/vendor", vendor + "\n");
        root.write(device + "/class", kind + "\n");
        root.write(device + "/numa_node", "0\n");
        const std::filesystem::path link =
            root.path("sys/bus/pci/devices/" + path.substr(path.rfind('/') + 1));
        std::filesystem::create_directories(link.parent_path());
        std::filesystem::create_symlink(root.path(device), link);
    }
    void examine() { findings = doctor::examine(facts); }
    Severity worst() const {
        const auto worst = std::max_element(
            findings.begin(), findings.end(),
            [](const Finding& a, const Finding& b) { return a.severity < b.severity; });
        return worst->severity;
    }
    // The finding whose text has `part`; one that says that there is none, if there is none.
    Finding find(const std::string& part) const {
        for (const Finding& one : findings) {
            if (one.text.find(part) != std::string::npos) return one;
        }
        return {Severity::ok, "", "no finding has: " + part, ""};
    }
    bool has(Severity severity, const std::string& part, const std::string& advice = "") const {
        const Finding found = find(part);
        INFO(found.text << " | " << found.advice);
        return !found.topic.empty() && found.severity == severity &&
               found.advice.find(advice) != std::string::npos;
    }
};

}  // namespace

TEST_CASE("a host on which all is well has no warning, and says what it uses") {
    Host host;
    host.examine();
    CHECK(host.worst() == Severity::note);  // there is no GPU
    CHECK(host.has(Severity::ok, "Linux 6.1.0-56-amd64"));
    CHECK(host.has(Severity::ok, "libibverbs 1.14.44.0"));
    CHECK(host.has(Severity::ok, "mlx5_0: at 0000:3b:00.0; firmware 20.35.1012; 16 reads at once"));
    CHECK(host.has(Severity::ok, "mlx5_0:1 is active: Ethernet, 400 Gbit/s, MTU 4096"));
    CHECK(host.has(Severity::ok, "mlx5_0:1 uses GID 3, 10.0.0.1: it is the only one"));
    CHECK(host.has(Severity::ok, "unlimited, hard unlimited"));
    CHECK(host.has(Severity::ok, "UCX 1.13.1"));
}

TEST_CASE("findings of a topic stand together") {
    Host host;
    host.facts.rdma.trouble = {"ibv_open_device of mlx5_9: Permission denied"};
    host.examine();
    std::vector<std::string> topics;
    for (const Finding& one : host.findings) {
        if (topics.empty() || topics.back() != one.topic) topics.push_back(one.topic);
    }
    std::sort(topics.begin(), topics.end());
    CHECK(std::adjacent_find(topics.begin(), topics.end()) == topics.end());
    CHECK(host.has(Severity::warning, "mlx5_9: Permission denied", "uverbs"));
}

TEST_CASE("no device is an error, with advice by what the kernel shows") {
    Host host;
    host.facts.rdma.devices.clear();
    host.facts.rdma.why_none = "there is none";
    host.examine();
    CHECK(host.has(Severity::error, "there is none", "modprobe mlx5_ib"));

    host.root.write("sys/class/infiniband/mlx5_0/node_type", "1: CA");
    host.examine();
    CHECK(host.has(Severity::error, "there is none", "ibverbs-providers"));

    host.facts.roots.dev = host.root.path("empty");
    host.examine();
    CHECK(host.has(Severity::error, "there is none", "--device=/dev/infiniband"));

    host.facts.rdma.built_in = false;
    host.examine();
    CHECK(host.has(Severity::error, "built without rdma-core", "the kernel has mlx5_0"));
}

TEST_CASE("a device that the kernel has and the library does not show is told of") {
    Host host;
    for (const char* name : {"mlx5_0", "mlx5_1", "mlx5_2"}) {
        host.root.write(std::string("sys/class/infiniband/") + name + "/node_type", "1: CA");
    }
    host.facts.rdma.trouble = {"ibv_open_device of mlx5_1: Permission denied"};
    host.examine();
    CHECK(host.has(Severity::warning, "the kernel has mlx5_2, but", "uverbs"));
    CHECK(host.find("the kernel has mlx5_0").topic.empty());
    CHECK(host.find("the kernel has mlx5_1").topic.empty());
    CHECK(host.worst() == Severity::warning);
}

TEST_CASE("a port that is not active makes the device useless, and the advice fits the link") {
    Host host;
    host.port().active = false;
    host.port().state = "down";
    host.examine();
    CHECK(host.has(Severity::warning, "mlx5_0:1 is down", "ip link set eth0 up"));
    CHECK(host.has(Severity::error, "no port of an RDMA device can be used"));

    host.port().link_layer = verbs::LinkLayer::infiniband;
    host.port().state = "initializing";
    host.examine();
    CHECK(host.has(Severity::warning, "mlx5_0:1 is initializing", "opensm"));

    host.facts.rdma.devices.push_back(make_device("mlx5_1", "0000:3c:00.0", "eth1", 2));
    host.examine();
    CHECK(host.worst() == Severity::warning);  // the other device will do
}

TEST_CASE("small packets are a warning") {
    Host host;
    host.port().mtu = 1024;
    host.examine();
    CHECK(host.has(Severity::warning, "1024 bytes where 4096 are possible", "mtu 9000"));
    host.port().link_layer = verbs::LinkLayer::infiniband;
    host.examine();
    CHECK(host.has(Severity::warning, "1024 bytes where 4096", "subnet manager"));
}

TEST_CASE("a port without a good GID is told of") {
    Host host;
    auto& gids = host.port().gids;
    gids[0].type = verbs::GidType::roce_v1;
    host.examine();
    CHECK(host.has(Severity::warning, "RoCE v1 only"));
    gids[0].type = verbs::GidType::roce_v2;
    gids[0].bytes = {std::byte{0xfe}, std::byte{0x80}};
    host.examine();
    CHECK(host.has(Severity::warning, "link-local addresses only", "ip addr add ADDRESS dev eth0"));
    gids.clear();
    host.examine();
    CHECK(host.has(Severity::warning, "mlx5_0, port 1 has no GID"));
    CHECK(host.has(Severity::error, "no port"));
    host.port().link_layer = verbs::LinkLayer::infiniband;
    host.port().lid = 7;
    host.examine();
    CHECK(host.worst() == Severity::warning);
}

TEST_CASE("a translating IOMMU is noted") {
    Host host;
    host.root.write("sys/bus/pci/devices/0000:3b:00.0/iommu_group/type", "DMA-FQ\n");
    host.examine();
    CHECK(host.has(Severity::note, "IOMMU", "iommu=pt"));
    host.root.write("sys/bus/pci/devices/0000:3b:00.0/iommu_group/type", "identity\n");
    host.examine();
    CHECK_FALSE(host.has(Severity::note, "IOMMU"));
}

TEST_CASE("a missing rdma_cm is a warning") {
    Host host;
    host.facts.roots.dev = host.root.path("empty");
    host.examine();
    CHECK(host.has(Severity::warning, "rdma_cm", "modprobe rdma_ucm"));
}

TEST_CASE("counters of lost packets and of congestion are told, zeros are not") {
    Host host;
    const std::string folder = "sys/class/infiniband/mlx5_0/ports/1/hw_counters/";
    host.root.write(folder + "out_of_sequence", "0\n");
    host.root.write(folder + "np_cnp_sent", "0\n");
    host.examine();
    CHECK_FALSE(host.has(Severity::note, "lost"));
    host.root.write(folder + "out_of_sequence", "12\n");
    host.root.write(folder + "np_cnp_sent", "34\n");
    host.root.write(folder + "local_ack_timeout_err", "not a number\n");
    host.examine();
    CHECK(host.has(Severity::note, "lost or repeated packets: out_of_sequence 12", "PFC or ECN"));
    CHECK(host.has(Severity::ok, "congestion and slowed down for it: np_cnp_sent 34"));
}

TEST_CASE("pause frames, storms and drops that interfaces count are told by any driver's names") {
    Host host;
    host.facts.counters["eth0"] = {{"rx_bytes", 1}};
    host.examine();
    CHECK(host.has(Severity::note, "eth0's driver tells no counters of pause frames", "switch"));

    host.facts.counters["eth0"] = {
        {"rx_prio3_pause", 0}, {"rx_discards_phy", 0}, {"tx_pause_storm_error_events", 0}};
    host.examine();
    CHECK(host.has(Severity::ok, "eth0 has counted no pause frames (PFC)"));
    CHECK(host.find("dropped").topic.empty());

    host.facts.counters["eth0"] = {{"rx_prio3_pause", 7},
                                   {"rx_prio3_pause_duration", 99},
                                   {"rx_discards_phy", 5},
                                   {"tx_pause_storm_error_events", 1}};
    host.facts.counters["eth1"] = {{"rx_pfc_ena_frames_pri3", 8}, {"tx_priority_3_xoff", 9}};
    host.examine();
    CHECK(host.has(Severity::ok, "eth0 has counted pause frames (PFC): rx_prio3_pause 7"));
    CHECK(host.has(Severity::ok, "rx_pfc_ena_frames_pri3 8, tx_priority_3_xoff 9"));
    CHECK(host.has(Severity::note, "eth0 has dropped packets: rx_discards_phy 5", "PFC or ECN"));
    CHECK(host.has(Severity::warning, "gave up waiting: tx_pause_storm_error_events 1"));
    CHECK(host.find("duration").topic.empty());
}

TEST_CASE("what has no driver that counts has no counters") {
    CHECK(doctor::read_counters("lo").empty());
    CHECK(doctor::read_counters("no-such-interface-of-any-kind").empty());
}

TEST_CASE("a limit of locked memory is judged by what it is too small for") {
    Host host;  // with 1 GiB of memory
    host.facts.memlock_hard = 8 << 20U;
    host.facts.memlock_soft = 64 << 10U;
    host.examine();
    CHECK(host.has(Severity::error, "64 KiB, hard 8 MiB: too little", "ulimit -l $(ulimit -H -l)"));
    host.facts.memlock_soft = 8 << 20U;
    host.examine();
    CHECK(host.has(Severity::error, "8 MiB, hard 8 MiB: too little", "LimitMEMLOCK=infinity"));
    CHECK_FALSE(host.has(Severity::error, "8 MiB, hard 8 MiB", "ulimit -l $("));
    host.facts.memlock_soft = 512 << 20U;
    host.examine();
    CHECK(host.has(Severity::warning, "larger weights", "--ulimit memlock=-1"));
    host.facts.memlock_soft = 1 << 30U;
    host.examine();
    CHECK(host.has(Severity::ok, "1024 MiB"));
    host.facts.memlock_soft = 64 << 10U;
    host.facts.may_lock = true;
    host.examine();
    CHECK(host.has(Severity::ok, "CAP_IPC_LOCK"));
}

TEST_CASE("forking and huge pages are told of") {
    Host host;
    host.facts.rdma.fork = doctor::ForkSafety::disabled;
    host.root.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    host.examine();
    CHECK(host.has(Severity::note, "forks", "RDMAV_FORK_SAFE=1"));
    CHECK(host.has(Severity::note, "huge pages: none reserved", "transparent_hugepage"));
    host.root.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "16\n");
    host.root.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "4\n");
    host.examine();
    CHECK(host.has(Severity::ok, "huge pages: 16 of 2048kB (4 free)"));
}

TEST_CASE("interfaces in one subnet need settings of their own") {
    Host host;
    host.facts.rdma.devices.push_back(make_device("mlx5_1", "0000:3c:00.0", "eth1", 2));
    constexpr std::uint32_t kMask = 0xffffff00;
    host.facts.interfaces = {{"eth0", 0x0a000001, kMask}, {"eth1", 0x0a000102, kMask}};
    host.examine();
    CHECK(host.find("share a subnet").topic.empty());  // two subnets

    host.facts.interfaces[1].address = 0x0a000002;
    const std::string conf = "proc/sys/net/ipv4/conf/";
    host.root.write(conf + "all/rp_filter", "0\n");
    host.root.write(conf + "eth0/rp_filter", "1\n");
    host.examine();
    CHECK(host.has(Severity::warning, "eth0, eth1 share a subnet, and eth0 drops",
                   "net.ipv4.conf.eth0.rp_filter=2"));
    CHECK(host.has(Severity::warning, "eth1 answers for the others'", "arp_ignore=1"));

    host.root.write(conf + "all/rp_filter", "2\n");
    host.root.write(conf + "all/arp_ignore", "1\n");
    host.root.write(conf + "all/arp_announce", "2\n");
    host.examine();
    CHECK(host.has(Severity::ok, "eth0, eth1 share a subnet, and are configured for it"));
    // An interface that has nothing to do with RDMA does not count.
    host.facts.interfaces[1].interface = "wlan0";
    host.examine();
    CHECK(host.find("share a subnet").topic.empty());
}

TEST_CASE("GPUs are found, with the nearest device and how their memory can be registered") {
    Host host;
    const std::string bridge = "pci0000:3a/0000:3a:00.0/";
    host.add_pci(bridge + "0000:3b:00.0", "0x15b3", "0x020000");
    host.add_pci(bridge + "0000:3c:00.0", "0x10de", "0x030200");
    host.add_pci(bridge + "0000:3c:00.1", "0x10de", "0x040300");  // its sound
    host.add_pci(bridge + "0000:3d:00.0", "0x1002", "0x030000");  // another maker's
    host.facts.cuda.inventory = verbs::CudaInventory{12040, {{0, "H100", "0000:3c:00.0", true}}};
    host.examine();
    CHECK(host.worst() == Severity::ok);
    CHECK(host.has(Severity::ok, "CUDA's driver is for 12.4 and has 1 devices"));
    CHECK(host.has(Severity::ok, "GPU 0000:3c:00.0: H100; dmabuf: yes"));
    CHECK(host.has(Severity::ok, "nearest RDMA device is mlx5_0, same PCIe switch"));
    CHECK(host.has(Severity::ok, "can be registered as dmabuf"));
    CHECK(host.find("0000:3d:00.0").topic.empty());

    host.facts.rdma.dmabuf["mlx5_0"] = false;
    host.examine();
    CHECK(host.has(Severity::warning, "no RDMA device's driver takes one"));
    CHECK(host.has(Severity::note, "not loaded", "modprobe nvidia-peermem"));
    host.root.write("sys/module/nvidia_peermem/refcnt", "0\n");
    host.examine();
    CHECK(host.has(Severity::note, "no RDMA device's driver takes one"));
    CHECK(host.has(Severity::ok, "nvidia-peermem is loaded"));

    host.root.write("proc/sys/kernel/osrelease", "5.11.0\n");
    host.examine();
    CHECK(host.has(Severity::note, "Linux is older than 5.12"));
    host.facts.cuda = {std::nullopt, "libcuda.so.1: cannot open"};
    host.examine();
    CHECK(host.has(Severity::warning, "libcuda.so.1", "--gpus all"));
}

TEST_CASE("a kernel's release is compared by its numbers") {
    Host host;
    const auto is = [&host](const char* release, int major, int minor) {
        host.root.write("proc/sys/kernel/osrelease", release);
        return doctor::is_kernel(host.facts.roots, major, minor);
    };
    CHECK(is("5.12.0", 5, 12));
    CHECK(is("5.12", 5, 12));
    CHECK(is("6.1.0-56", 5, 12));
    CHECK(is("5.100", 5, 12));
    CHECK_FALSE(is("5.9.1", 5, 12));
    CHECK_FALSE(is("4.18.0", 5, 12));
    CHECK_FALSE(is("", 5, 12));
    CHECK_FALSE(is("x.y", 5, 12));
}

TEST_CASE("this host can be examined") {
    const auto findings = doctor::examine(doctor::gather_facts());
    CHECK_FALSE(findings.empty());
    for (const Finding& one : findings) {
        CHECK_FALSE(one.topic.empty());
        CHECK_FALSE(one.text.empty());
    }
}
