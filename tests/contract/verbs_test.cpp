// Goal: what only the verbs fabric has: passive holders, shared registrations that are revoked all
// the same, all rails or none, and holders that no request for a connection can harm.
// Method: the RDMA devices of this host, software ones too; without one every case is skipped.
// What a holder's process does is read from the kernel's accounts of its threads.
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "tests/contract/verbs_site.h"
#include "tests/kit/child.h"
#include "tests/kit/pattern.h"
#include "tests/unit/transport/fake_cuda.h"
#include "transport/open.h"

namespace weightcast::contract {
namespace {

// Nanoseconds that each thread of a process has run, as the scheduler accounts them.
std::map<std::string, std::uint64_t> run_times(int pid) {
    std::map<std::string, std::uint64_t> times;
    const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
    for (const auto& task : std::filesystem::directory_iterator(tasks)) {
        std::ifstream file(task.path() / "schedstat");
        std::uint64_t nanoseconds = 0;
        REQUIRE(file >> nanoseconds);
        times[task.path().filename().string()] = nanoseconds;
    }
    return times;
}

FabricOptions named(const std::vector<std::string>& devices) {
    FabricOptions options = fresh_options();
    options.devices = devices;
    return options;
}

}  // namespace

TEST_CASE("a holder's process does not run while others read from it") {
    on_verbs([](Site& site) {
        constexpr std::uint64_t kBytes = 8 * kMiB;
        const auto holder = site.start_holder({{kBytes, 1}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kBytes);
        const LinkId link = fabric->connect(holder->peer());
        // At first the holder still hears that connections are established.
        int untouched = 0;
        for (int round = 0; round < 30 && untouched < 3; ++round) {
            std::ranges::fill(session.local(), std::byte{0});
            const auto before = run_times(holder->pid());
            REQUIRE(session.read_now(link, holder->key(0), {0, 0, kBytes}) == ReadStatus::ok);
            untouched = run_times(holder->pid()) == before ? untouched + 1 : 0;
            REQUIRE(kit::has_pattern(session.local(), 1, 0));
        }
        REQUIRE(untouched == 3);
    });
}

TEST_CASE("an idle fabric has nothing to wake up for") {
    on_verbs([](Site& site) {
        const auto holder = site.start_holder({{kMiB, 1}}, fresh_options());
        const auto fabric = site.open(fresh_options());
        Session session(*fabric, kMiB);
        const LinkId link = fabric->connect(holder->peer());
        REQUIRE(session.read_now(link, holder->key(0), {0, 0, kMiB}) == ReadStatus::ok);
        // An event may come for a completion that was polled already, and is then taken.
        ::pollfd waiting{fabric->wait_fd(), POLLIN, 0};
        const auto idle = [&] { return fabric->wait_ms() < 0 && ::poll(&waiting, 1, 0) == 0; };
        for (int i = 0; i < 100 && !idle(); ++i) session.poll_once();
        REQUIRE(idle());
    });
}

TEST_CASE("memory that is offered twice has one key, until the last offer ends") {
    const auto devices = devices_or_skip(1);
    if (devices.empty()) return;
    const FabricOptions options = named(devices);
    auto holder = transport::open_verbs(options);
    REQUIRE_OK(holder);
    std::vector<std::byte> memory(kMiB);
    kit::fill_pattern(memory, 3);
    const auto remote = fabric::Access::remote_read;
    auto first = holder.value()->register_memory({memory}, remote);
    auto second = holder.value()->register_memory({memory}, remote);
    REQUIRE_OK(first);
    REQUIRE_OK(second);
    const RegionKey key = first.value()->key();
    REQUIRE(key == second.value()->key());
    auto reader = transport::open_verbs(named(devices));
    REQUIRE_OK(reader);
    Session session(*reader.value(), kMiB);
    const LinkId link = reader.value()->connect({holder.value()->address(), options.incarnation});
    first.value().reset();
    REQUIRE(session.read_now(link, key, {0, 0, kMiB}) == ReadStatus::ok);
    REQUIRE(kit::has_pattern(session.local(), 3, 0));
    second.value().reset();
    REQUIRE(session.read_now(link, key, {0, 0, kMiB}) == ReadStatus::access_denied);
}

TEST_CASE("what reads still run into is no longer served once its last offer ends") {
    const auto devices = devices_or_skip(1);
    if (devices.empty()) return;
    const FabricOptions source_options = named(devices);
    auto source = transport::open_verbs(source_options);
    const FabricOptions relay_options = named(devices);
    auto relay = transport::open_verbs(relay_options);
    auto reader = transport::open_verbs(named(devices));
    REQUIRE_OK(source);
    REQUIRE_OK(relay);
    REQUIRE_OK(reader);
    std::vector<std::byte> original(4 * kMiB);
    kit::fill_pattern(original, 4);
    std::vector<std::byte> copy(4 * kMiB);
    auto offered = source.value()->register_memory({original}, fabric::Access::remote_read);
    auto served = relay.value()->register_memory({copy}, fabric::Access::remote_read);
    auto local = relay.value()->register_memory({copy}, fabric::Access::local);
    REQUIRE_OK(offered);
    REQUIRE_OK(served);
    REQUIRE_OK(local);
    const RegionKey key = served.value()->key();
    const LinkId up =
        relay.value()->connect({source.value()->address(), source_options.incarnation});
    const RegionKey source_key = offered.value()->key();
    std::vector<fabric::Read> reads;
    for (std::uint64_t i = 0; i < 4; ++i) {
        reads.push_back(
            {up, source_key, i * kMiB, local.value().get(), i * kMiB, kMiB, ReadTag(i)});
    }
    relay.value()->submit(reads);
    // While these reads run or wait.
    served.value().reset();
    std::size_t completed = 0;
    for (int idle = 0; completed < reads.size() && idle < 1000; ++idle) {
        std::array<fabric::Completion, 4> done;
        const std::size_t count = relay.value()->poll(done);
        for (std::size_t i = 0; i < count; ++i) REQUIRE(done[i].status == ReadStatus::ok);
        completed += count;
        ::pollfd waiting{relay.value()->wait_fd(), POLLIN, 0};
        const int wait_ms = relay.value()->wait_ms();
        if (count == 0) ::poll(&waiting, 1, wait_ms < 0 ? 100 : std::min(wait_ms, 100));
    }
    REQUIRE(completed == reads.size());
    REQUIRE(kit::has_pattern(copy, 4, 0));
    Session session(*reader.value(), kMiB);
    const LinkId link =
        reader.value()->connect({relay.value()->address(), relay_options.incarnation});
    REQUIRE(session.read_now(link, key, {0, 0, kMiB}) == ReadStatus::access_denied);
}

TEST_CASE("memory that one rail cannot register is registered on none") {
    const auto devices = devices_or_skip(2);
    if (devices.empty()) return;
    kit::Child child([&](kit::Channel& channel) {
        auto fabric = transport::open_verbs(named(devices));
        if (!fabric) return 2;
        // Without root's right to lock what it likes, and with room for one rail and a half.
        constexpr std::uint64_t kBytes = 8 * kMiB;
        const ::rlimit limit{kBytes * 3 / 2, kBytes * 3 / 2};
        if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || ::setresuid(65534, 65534, 65534) != 0) {
            return 3;
        }
        std::vector<std::byte> memory(kBytes);
        const auto remote = fabric::Access::remote_read;
        auto whole = fabric.value()->register_memory({memory}, remote);
        if (whole || whole.error().code != Code::no_space) return 4;
        channel.send(whole.error().message);
        // Had the first rail's part stayed, this would be too much.
        auto half = fabric.value()->register_memory({std::span(memory).first(kBytes / 2)}, remote);
        if (!half) channel.send(half.error().message);
        return half ? 0 : 5;
    });
    const auto message = child.channel().receive();
    REQUIRE(message);
    CHECK(message->find("8388608 bytes") != std::string::npos);
    CHECK(message->find("RLIMIT_MEMLOCK") != std::string::npos);
    CHECK(message->find("ulimit -l unlimited") != std::string::npos);
    const auto more = child.channel().receive();
    if (more) FAIL(*more);
    REQUIRE(child.wait() == 0);
}

// The devices here are software and the "GPU memory" is the host's: what is shown is the way that
// registration takes, not that a GPU's memory is read.
TEST_CASE("GPU memory goes by dmabuf, and where that is refused by ibv_reg_mr") {
    const auto devices = devices_or_skip(1);
    if (devices.empty()) return;
    kit::FakeCudaLibrary cuda(FAKE_CUDA);
    REQUIRE(cuda.get() != nullptr);
    auto memory = SharedMemory::create("gpu", 2 * kMiB);
    REQUIRE_OK(memory);
    const auto pages = memory.value().pages.span();
    kit::fill_pattern(pages, 6);
    cuda->allocations.push_back({reinterpret_cast<std::uintptr_t>(pages.data()), pages.size()});
    FabricOptions options = named(devices);
    options.cuda_library = FAKE_CUDA;
    auto holder = transport::open_verbs(options);
    REQUIRE_OK(holder);
    fabric::Memory gpu{pages.subspan(4096, kMiB)};
    gpu.cuda = true;
    auto region = holder.value()->register_memory(gpu, fabric::Access::remote_read);
    REQUIRE_OK(region);
    REQUIRE(cuda->exports.size() == 1);
    auto reader = transport::open_verbs(named(devices));
    REQUIRE_OK(reader);
    Session session(*reader.value(), kMiB);
    const LinkId link = reader.value()->connect({holder.value()->address(), options.incarnation});
    REQUIRE(session.read_now(link, region.value()->key(), {0, 0, kMiB}) == ReadStatus::ok);
    REQUIRE(kit::has_pattern(session.local(), 6, 4096));
    // An address that the GPU does not know.
    std::vector<std::byte> elsewhere(4096);
    fabric::Memory unknown{elsewhere};
    unknown.cuda = true;
    CHECK(holder.value()->register_memory(unknown, fabric::Access::remote_read).has_error());
}

TEST_CASE("without CUDA's driver GPU memory is refused, and why") {
    const auto devices = devices_or_skip(1);
    if (devices.empty()) return;
    FabricOptions options = named(devices);
    options.cuda_library = "libcuda-that-is-not-there.so.1";
    auto fabric = transport::open_verbs(options);
    REQUIRE_OK(fabric);
    std::vector<std::byte> bytes(4096);
    fabric::Memory gpu{bytes};
    gpu.cuda = true;
    const auto region = fabric.value()->register_memory(gpu, fabric::Access::local);
    REQUIRE(region.has_error());
    CHECK(region.error().code == Code::unavailable);
    CHECK(region.error().message.find("libcuda-that-is-not-there.so.1") != std::string::npos);
}

}  // namespace weightcast::contract
