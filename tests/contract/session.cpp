#include "tests/contract/session.h"

#include <poll.h>

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "tests/kit/catch.h"

namespace weightcast::contract {
namespace {

constexpr int kWaitMsMax = 1000;
constexpr int kIdleWaitsMax = 60;
constexpr int kIdlePollsMax = 1'000'000;  // where there is nothing to wait on

}  // namespace

Session::Session(fabric::Fabric& fabric, std::size_t bytes) : fabric_(fabric), memory_(bytes) {
    fabric::Memory memory;
    memory.bytes = memory_;
    auto region = fabric_.register_memory(memory, fabric::Access::local);
    REQUIRE_OK(region);
    region_ = std::move(region).value();
}

fabric::ReadTag Session::read(fabric::LinkId link, const fabric::RegionKey& key, Piece piece,
                              const Gate& gate) {
    const fabric::ReadTag tag(next_tag_++);
    const Keys& kept = keys_.emplace(tag.value, Keys{key, gate.key}).first->second;
    const fabric::Read read{link,          kept.region,        piece.remote_offset,
                            region_.get(), piece.local_offset, piece.bytes,
                            tag,           kept.gate,          gate.bit};
    fabric_.submit({&read, 1});
    return tag;
}

void Session::poll_once() {
    std::array<fabric::Completion, 7> done;
    const std::size_t count = fabric_.poll(done);
    REQUIRE(count <= done.size());
    for (std::size_t i = 0; i < count; ++i) {
        INFO("tag " << done[i].tag.value);
        REQUIRE(keys_.erase(done[i].tag.value) == 1);
        statuses_[done[i].tag.value] = done[i].status;
    }
}

void Session::go_on_for(std::uint32_t ms) {
    if (fabric_.wait_fd() < 0) {
        // Its time is polls.
        for (std::uint32_t i = 0; i < ms; ++i) poll_once();
        return;
    }
    const TimePoint end = system_clock().now() + std::chrono::milliseconds(ms);
    for (TimePoint now = system_clock().now(); now < end; now = system_clock().now()) {
        poll_once();
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - now).count();
        const int wait_ms = fabric_.wait_ms();
        ::pollfd waiting{fabric_.wait_fd(), POLLIN, 0};
        ::poll(&waiting, 1,
               wait_ms < 0 ? static_cast<int>(left) : std::min(wait_ms, static_cast<int>(left)));
    }
}

void Session::finish_some(std::size_t count) {
    int idle = 0;
    while (completed() < count) {
        const std::size_t before = completed();
        poll_once();
        if (completed() > before) {
            idle = 0;
            continue;
        }
        ++idle;
        if (fabric_.wait_fd() < 0) {
            REQUIRE(idle < kIdlePollsMax);
            continue;
        }
        const int wait_ms = fabric_.wait_ms();
        ::pollfd waiting{fabric_.wait_fd(), POLLIN, 0};
        const int timeout_ms = wait_ms < 0 || wait_ms > kWaitMsMax ? kWaitMsMax : wait_ms;
        // A wait that found something to do is no idle one.
        if (::poll(&waiting, 1, timeout_ms) > 0) idle = 0;
        REQUIRE(idle < kIdleWaitsMax);
    }
}

void Session::finish() { finish_some(completed() + outstanding()); }

fabric::ReadStatus Session::read_now(fabric::LinkId link, const fabric::RegionKey& key,
                                     Piece piece) {
    const fabric::ReadTag tag = read(link, key, piece);
    finish();
    return status(tag);
}

}  // namespace weightcast::contract
