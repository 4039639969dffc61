// Measures how fast one process reads the memory of another through a fabric.
#include <fmt/core.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/unique_fd.h"
#include "base/worker_pool.h"
#include "fabric/fabric.h"
#include "perf/transfer/cell.h"
#include "perf/transfer/options.h"
#include "tests/kit/child.h"
#include "transport/open.h"

namespace weightcast::perf {
namespace {

constexpr std::string_view kUsage =
    "usage: fabric-bench shm|verbs|tcp|ucx|memcpy|memcpy-chunks|socket [--bytes N] [--region N]\n"
    "       [--chunk N] [--window N] [--connections N] [--congestion NAME] [--verify] "
    "[--private]\n"
    "       [--device NAME] [--holder-device NAME]\n";

Result<Cell> parse(std::span<char* const> arguments) {
    if (arguments.size() < 2) return Error{Code::invalid_input, 0, "what to measure?"};
    Cell cell;
    cell.kind = arguments[1];
    const std::array options{
        Option{"--bytes", &cell.total_bytes},
        Option{"--region", &cell.region_bytes},
        Option{"--chunk", &cell.chunk_bytes},
        Option{"--window", &cell.window},
        Option{"--connections", &cell.connections},
        Option{"--congestion", nullptr, &cell.congestion_control},
        Option{"--device", nullptr, &cell.device},
        Option{"--holder-device", nullptr, &cell.holder_device},
        Option{"--verify", nullptr, nullptr, &cell.verify},
        Option{"--private", nullptr, nullptr, &cell.private_source},
    };
    WEIGHTCAST_CHECK(parse_options(arguments.subspan(2), options));
    if (cell.region_bytes % cell.chunk_bytes != 0 || cell.total_bytes % cell.chunk_bytes != 0) {
        return Error{Code::invalid_input, 0, "the region and the total must be whole chunks"};
    }
    if (cell.connections > 64 || cell.window > 65536) {
        return Error{Code::invalid_input, 0, "at most 64 connections and a window of 65536"};
    }
    return cell;
}

Result<std::unique_ptr<fabric::Fabric>> open_fabric(const Cell& cell,
                                                    const fabric::Incarnation& incarnation,
                                                    const std::string& device) {
    fabric::FabricOptions options;
    options.incarnation = incarnation;
    options.congestion_control = cell.congestion_control;
    options.connections_per_link = static_cast<std::uint32_t>(cell.connections);
    options.progress_ms_max = 20000;
    if (!device.empty()) options.devices = {device};
    if (cell.kind == "verbs") return transport::open_verbs(options);
    if (cell.kind == "shm") return transport::open_shm(options);
    if (cell.kind == "tcp") return transport::open_tcp(options);
    if (cell.kind == "ucx") return transport::open_ucx(options);
    return Error{Code::not_found, 0, fmt::format("no fabric '{}'", cell.kind)};
}

fabric::Memory describe(const Arena& arena) {
    fabric::Memory described;
    described.bytes = arena.bytes();
    if (arena.shared.fd) described.fd = arena.shared.fd.get();
    return described;
}

// In the child: serves one region until the parent is gone.
int hold(kit::Channel& channel, const Cell& cell, const fabric::Incarnation& incarnation) {
    auto arena = make_arena(cell.region_bytes, cell.private_source);
    auto fabric = open_fabric(cell, incarnation, cell.holder_device);
    if (!arena || !fabric) {
        if (!fabric) fmt::print(stderr, "fabric-bench: {}\n", fabric.error().message);
        return 1;
    }
    fill(arena.value().bytes());
    auto region =
        fabric.value()->register_memory(describe(arena.value()), fabric::Access::remote_read);
    if (!region) return 1;
    const auto key = region.value()->key();
    channel.send(fabric.value()->address());
    channel.send({reinterpret_cast<const char*>(key.data()), key.size()});
    channel.receive();
    return 0;
}

// Compares chunks with what they must be, on worker threads, as an agent does.
class Verifier {
  public:
    static Result<std::unique_ptr<Verifier>> start(const Cell& cell, std::span<std::byte> region) {
        std::unique_ptr<Verifier> verifier(new Verifier(cell, region));
        verifier->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!verifier->wake_) return system_error(errno, "eventfd");
        return verifier;
    }

    void check(std::uint64_t chunk) {
        workers_.post([this, chunk] {
            const auto bytes = region_.subspan(chunk * chunk_bytes_, chunk_bytes_);
            if (model::digest_chunk(bytes) != expected_[chunk]) ++wrong_;
            ++checked_;
            ::eventfd_write(wake_.get(), 1);
        });
    }
    std::uint64_t checked() const { return checked_; }
    std::uint64_t wrong() const { return wrong_; }
    int wait_fd() const { return wake_.get(); }
    void clear() {
        ::eventfd_t ignored = 0;
        ::eventfd_read(wake_.get(), &ignored);
    }

  private:
    Verifier(const Cell& cell, std::span<std::byte> region)
        : region_(region), chunk_bytes_(cell.chunk_bytes), expected_(expected_digests(cell)) {}

    std::span<std::byte> region_;
    std::uint64_t chunk_bytes_;
    std::vector<model::Digest> expected_;
    std::atomic<std::uint64_t> checked_ = 0;
    std::atomic<std::uint64_t> wrong_ = 0;
    UniqueFd wake_;
    WorkerPool workers_{usable_cores()};
};

class Reader {
  public:
    Reader(const Cell& cell, fabric::Fabric& fabric, fabric::Region& local, fabric::LinkId link,
           fabric::RegionKey key, Verifier* verifier)
        : cell_(cell),
          fabric_(fabric),
          local_(local),
          link_(link),
          key_(std::move(key)),
          verifier_(verifier) {}

    // Reads chunks [0, chunks), a window at a time.
    Result<void> read(std::uint64_t chunks) {
        std::array<fabric::Completion, 64> done;
        const std::uint64_t verified_before = verified();
        while (received_ < chunks || verified() - verified_before < chunks) {
            start_reads(chunks, verified() - verified_before);
            const std::size_t count = fabric_.poll(done);
            for (std::size_t i = 0; i < count; ++i) {
                if (done[i].status != fabric::ReadStatus::ok) {
                    return Error{Code::unavailable, 0, fabric_.link_error(link_)};
                }
                if (verifier_ != nullptr) verifier_->check(done[i].tag.value);
            }
            received_ += count;
            if (count == 0) wait();
        }
        started_ = received_ = 0;
        if (verifier_ != nullptr && verifier_->wrong() > 0) {
            return Error{Code::corrupt, 0, "chunks arrived with other bytes"};
        }
        return success();
    }

  private:
    std::uint64_t verified() const {
        return verifier_ == nullptr ? received_ : verifier_->checked();
    }

    // Never overwrites a chunk of the destination that is not verified yet.
    void start_reads(std::uint64_t chunks, std::uint64_t verified_chunks) {
        while (started_ < chunks && started_ - received_ < cell_.window &&
               started_ - verified_chunks < cell_.region_chunks()) {
            const std::uint64_t chunk = started_++ % cell_.region_chunks();
            const std::uint64_t offset = chunk * cell_.chunk_bytes;
            const fabric::Read read{
                link_, key_, offset, &local_, offset, cell_.chunk_bytes, fabric::ReadTag(chunk)};
            fabric_.submit({&read, 1});
        }
    }

    void wait() {
        std::array<::pollfd, 2> waiting{
            ::pollfd{fabric_.wait_fd(), POLLIN, 0},
            ::pollfd{verifier_ == nullptr ? -1 : verifier_->wait_fd(), POLLIN, 0}};
        if (started_ > received_ && fabric_.wait_fd() < 0) return;
        ::poll(waiting.data(), waiting.size(), fabric_.wait_ms());
        if (verifier_ != nullptr) verifier_->clear();
    }

    const Cell& cell_;
    fabric::Fabric& fabric_;
    fabric::Region& local_;
    fabric::LinkId link_;
    fabric::RegionKey key_;
    Verifier* verifier_;
    std::uint64_t started_ = 0;
    std::uint64_t received_ = 0;
};

Result<void> run_fabric(const Cell& cell) {
    const fabric::Incarnation incarnation = random_identity();
    kit::Child holder([&](kit::Channel& channel) { return hold(channel, cell, incarnation); });
    WEIGHTCAST_TRY(const auto arena, make_arena(cell.region_bytes, false));
    std::unique_ptr<Verifier> verifier;
    if (cell.verify) {
        WEIGHTCAST_TRY(verifier, Verifier::start(cell, arena.bytes()));
    }
    const auto address = holder.channel().receive();
    const auto key_text = holder.channel().receive();
    if (!address || !key_text) return Error{Code::unavailable, 0, "the holder did not start"};
    fabric::RegionKey key(key_text->size());
    std::memcpy(key.data(), key_text->data(), key.size());
    WEIGHTCAST_TRY(const auto fabric, open_fabric(cell, random_identity(), cell.device));
    WEIGHTCAST_TRY(const auto local,
                   fabric->register_memory(describe(arena), fabric::Access::local));
    const auto link = fabric->connect({*address, incarnation});
    Reader reader(cell, *fabric, *local, link, key, verifier.get());
    WEIGHTCAST_CHECK(reader.read(1));  // the connection is up, and the region is known
    const double cpu_s = cpu_seconds();
    const TimePoint begin = system_clock().now();
    WEIGHTCAST_CHECK(reader.read(cell.chunks()));
    print(cell, seconds(system_clock().now() - begin), cpu_seconds() - cpu_s);
    return success();
}

Result<void> run(const Cell& cell) {
    if (cell.kind == "memcpy" || cell.kind == "memcpy-chunks") return run_memcpy(cell);
    if (cell.kind == "socket") return run_socket(cell);
    return run_fabric(cell);
}

}  // namespace
}  // namespace weightcast::perf

int main(int argc, char** argv) {
    const auto cell = weightcast::perf::parse({argv, static_cast<std::size_t>(argc)});
    if (!cell) {
        fmt::print(stderr, "fabric-bench: {}\n{}", cell.error().message, weightcast::perf::kUsage);
        return 2;
    }
    const auto result = weightcast::perf::run(cell.value());
    if (result) return 0;
    fmt::print(stderr, "fabric-bench: {}\n", result.error().message);
    return 1;
}
