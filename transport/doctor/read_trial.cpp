#include "transport/doctor/read_trial.h"

#include <fmt/core.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/random.h"

namespace weightcast::transport::doctor {
namespace {

using fabric::Completion;
using fabric::LinkId;
using fabric::ReadStatus;

constexpr std::uint64_t kPieceBytes = 512 << 10U;
constexpr std::uint64_t kReadsAtOnce = 8;
constexpr std::uint64_t kRatePieces = 64;  // that are read before the clock is looked at
constexpr std::uint64_t kSmallBytes = 8;
constexpr std::size_t kSmallReads = 100;
constexpr Duration kRateTime = std::chrono::milliseconds(500);
constexpr Duration kPatience = std::chrono::seconds(20);  // for one batch; fabrics give up earlier

// One link of a fabric and the memory that its reads go to.
class Reader {
  public:
    Reader(fabric::Fabric& fabric, LinkId link, std::span<const std::byte> key,
           fabric::Region& local, int stop_fd)
        : fabric_(fabric), link_(link), key_(key), local_(local), stop_fd_(stop_fd) {}
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    // Ends what a failure left outstanding, before the memory goes.
    ~Reader() {
        fabric_.disconnect(link_);
        while (outstanding_ > 0) poll();
    }

    // Reads `pieces` pieces of `piece_bytes`, `at_once` at a time, over the memory again and again.
    Result<void> read(std::uint64_t pieces, std::uint64_t piece_bytes, std::uint64_t at_once) {
        const TimePoint deadline = system_clock().now() + kPatience;
        std::uint64_t submitted = 0;
        while (submitted < pieces || outstanding_ > 0) {
            while (submitted < pieces && outstanding_ < at_once) {
                const std::uint64_t offset = submitted * piece_bytes % kTestBytes;
                const fabric::Read one{
                    link_, key_, offset, &local_, offset, piece_bytes, fabric::ReadTag(submitted)};
                fabric_.submit({&one, 1});
                ++outstanding_;
                ++submitted;
            }
            if (poll() == 0) WEIGHTCAST_CHECK(wait(deadline));
            if (status_ != ReadStatus::ok) return failure();
        }
        return success();
    }

  private:
    std::size_t poll() {
        std::array<Completion, kReadsAtOnce> completions;
        const std::size_t count = fabric_.poll(completions);
        for (const Completion& one : std::span(completions).first(count)) {
            if (one.status != ReadStatus::ok) status_ = one.status;
        }
        outstanding_ -= count;
        return count;
    }

    Result<void> wait(TimePoint deadline) const {
        if (system_clock().now() > deadline) {
            return Error{Code::timed_out, 0, "reads do not complete"};
        }
        std::array<::pollfd, 2> waited{{{fabric_.wait_fd(), POLLIN, 0}, {stop_fd_, POLLIN, 0}}};
        const int wait_ms = fabric_.wait_ms();
        constexpr int kWaitMsMax = 1000;
        const int patience_ms = fabric_.wait_fd() < 0 ? 0
                                : wait_ms < 0         ? kWaitMsMax
                                                      : std::min(wait_ms, kWaitMsMax);
        ::poll(waited.data(), waited.size(), patience_ms);
        if (waited[1].revents != 0) return Error{Code::cancelled, 0, "stopped"};
        return success();
    }

    Error failure() const {
        const std::string why = fabric_.link_error(link_);
        return {Code::unavailable, 0,
                fmt::format("{}{}{}", fabric::to_string(status_), why.empty() ? "" : ": ", why)};
    }

    fabric::Fabric& fabric_;
    LinkId link_;
    std::span<const std::byte> key_;
    fabric::Region& local_;
    int stop_fd_;
    std::uint64_t outstanding_ = 0;
    ReadStatus status_ = ReadStatus::ok;
};

Result<double> measure_latency_us(Reader& reader) {
    std::array<double, kSmallReads> microseconds{};
    for (double& one : microseconds) {
        const TimePoint start = system_clock().now();
        WEIGHTCAST_CHECK(reader.read(1, kSmallBytes, 1));
        one = seconds(system_clock().now() - start) * 1e6;
    }
    std::nth_element(microseconds.begin(), microseconds.begin() + kSmallReads / 2,
                     microseconds.end());
    return microseconds[kSmallReads / 2];
}

Result<double> measure_rate(Reader& reader) {
    const TimePoint start = system_clock().now();
    std::uint64_t bytes = 0;
    Duration taken{};
    while (taken < kRateTime) {
        WEIGHTCAST_CHECK(reader.read(kRatePieces, kPieceBytes, kReadsAtOnce));
        bytes += kRatePieces * kPieceBytes;
        taken = system_clock().now() - start;
    }
    return static_cast<double>(bytes) / seconds(taken);
}

Result<void> run_trial(fabric::Fabric& fabric, const fabric::PeerAddress& peer,
                       std::span<const std::byte> key, std::uint64_t seed, int stop_fd,
                       ReadReport& report) {
    if (!fabric.can_reach(peer.address)) {
        return Error{
            Code::unavailable, 0,
            fmt::format("{} cannot be reached from here over {}", peer.address, fabric.name())};
    }
    WEIGHTCAST_TRY(const SharedMemory memory, SharedMemory::create("doctor", kTestBytes));
    const fabric::Memory local{.bytes = memory.pages.span(), .fd = memory.fd.get()};
    WEIGHTCAST_TRY(const auto region, fabric.register_memory(local, fabric::Access::local));
    Reader reader(fabric, fabric.connect(peer), key, *region, stop_fd);
    WEIGHTCAST_CHECK(reader.read(kTestBytes / kPieceBytes, kPieceBytes, kReadsAtOnce));
    std::vector<std::byte> expected(kTestBytes);
    fill_pattern(expected, seed);
    if (std::memcmp(expected.data(), memory.pages.data(), kTestBytes) != 0) {
        return Error{Code::corrupt, 0, "reads complete, but with other bytes than the peer's"};
    }
    WEIGHTCAST_TRY(report.latency_us, measure_latency_us(reader));
    WEIGHTCAST_TRY(report.bytes_per_second, measure_rate(reader));
    return success();
}

}  // namespace

void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) {
    Random random(seed);
    while (!bytes.empty()) {
        const std::uint64_t word = random.next();
        const std::size_t part = std::min(bytes.size(), sizeof word);
        std::memcpy(bytes.data(), &word, part);
        bytes = bytes.subspan(part);
    }
}

ReadReport try_read(fabric::Fabric& fabric, const fabric::PeerAddress& peer,
                    std::span<const std::byte> key, std::uint64_t seed, int stop_fd) {
    ReadReport report;
    report.fabric = fabric.name();
    const auto result = run_trial(fabric, peer, key, seed, stop_fd, report);
    if (!result) report.error = result.error().message;
    return report;
}

}  // namespace weightcast::transport::doctor
