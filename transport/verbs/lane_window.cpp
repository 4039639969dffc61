#include <algorithm>
#include <bit>

#include "transport/verbs/lane.h"

namespace weightcast::transport::verbs {
namespace {

constexpr std::uint64_t kPieceBytesMin = 16U << 10U;
constexpr std::uint64_t kPieceBytesMax = 1U << 20U;
constexpr std::uint64_t kFastWindowBytesMin = 4U << 20U;
constexpr double kWindowSeconds = 500e-6;
// Before anything is known.
constexpr std::uint64_t kFirstWindowBytes = 2U << 20U;
// What is outstanding is to be done within less than one of the devices' retries takes.
constexpr double kQueueSeconds = 40e-3;
constexpr auto kPeriod = std::chrono::milliseconds(10);
constexpr std::uint64_t kPiecesPerWindow = 2;

}  // namespace

LaneWindow::LaneWindow(const RailChoice& choice, std::uint64_t message_bytes_max)
    : bytes_max_(std::max(
          kFastWindowBytesMin,
          static_cast<std::uint64_t>(static_cast<double>(choice.port.rate) * kWindowSeconds))),
      piece_bytes_max_(std::min(kPieceBytesMax, message_bytes_max)) {
    set(kFirstWindowBytes);
}

void LaneWindow::set(double bytes) {
    bytes_ = std::clamp(static_cast<std::uint64_t>(bytes), kPieceBytesMin * 2, bytes_max_);
    piece_bytes_ = static_cast<std::uint32_t>(
        std::clamp(std::bit_floor(bytes_ / kPiecesPerWindow), kPieceBytesMin, piece_bytes_max_));
}

void LaneWindow::restart(TimePoint now) {
    period_start_ = now;
    period_bytes_ = 0;
    was_full_ = false;
}

// The window follows what was settled in the last period half way.
void LaneWindow::on_settled(std::uint64_t bytes, TimePoint now) {
    period_bytes_ += bytes;
    const Duration elapsed = now - period_start_;
    if (elapsed < kPeriod) return;
    if (!was_full_) return restart(now);
    const double rate = static_cast<double>(period_bytes_) / seconds(elapsed);
    set((static_cast<double>(bytes_) + rate * kQueueSeconds) / 2);
    restart(now);
}

}  // namespace weightcast::transport::verbs
