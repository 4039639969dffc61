#include "agent/io_thread.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/assert.h"

namespace weightcast::agent {
namespace {

constexpr int kWaitMsMax = 1000;
constexpr Duration kIdleMax = std::chrono::milliseconds(5);

// One read into a buffer of its own.
class SingleRead final : public IoSession {
  public:
    SingleRead(IoThread& io, std::size_t fabric_index, std::uint64_t bytes)
        : io_(io), fabric_(*io.fabrics()[fabric_index]), buffer_(bytes) {}

    Result<void> start(const fabric::PeerAddress& peer, std::span<const std::byte> key) {
        WEIGHTCAST_TRY(region_,
                       fabric_.register_memory({buffer_, -1, 0, false}, fabric::Access::local));
        id_ = io_.attach(this);
        link_ = fabric_.connect(peer);
        const fabric::Read read{
            link_, key, 0, region_.get(), 0, buffer_.size(), IoThread::tag(id_, 0)};
        fabric_.submit({&read, 1});
        return success();
    }

    void on_completion(std::uint64_t, fabric::ReadStatus status) override {
        if (status != fabric::ReadStatus::ok) {
            error_ = fmt::format("{}: {} {}", fabric_.name(), to_string(status),
                                 fabric_.link_error(link_));
        }
        fabric_.disconnect(link_);
        io_.detach(id_);
        region_.reset();
        done_.set_value();
    }
    void step(TimePoint) override {}
    TimePoint deadline() const override { return TimePoint::max(); }

    std::future<void> done() { return done_.get_future(); }
    const std::string& error() const { return error_; }
    std::vector<std::byte> take() { return std::move(buffer_); }

  private:
    IoThread& io_;
    fabric::Fabric& fabric_;
    std::vector<std::byte> buffer_;
    std::unique_ptr<fabric::Region> region_;
    fabric::LinkId link_;
    std::uint32_t id_ = 0;
    std::string error_;
    std::promise<void> done_;
};

}  // namespace

IoThread::IoThread(std::vector<std::unique_ptr<fabric::Fabric>> fabrics)
    : fabrics_(std::move(fabrics)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    WEIGHTCAST_ASSERT(wake_);
    thread_ = std::thread([this] { run(); });
}

IoThread::~IoThread() {
    stopping_ = true;
    post([] {});
    thread_.join();
}

void IoThread::post(std::function<void()> job) {
    {
        const std::lock_guard lock(mutex_);
        posted_.push_back(std::move(job));
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

std::uint32_t IoThread::attach(IoSession* session) {
    const std::uint32_t id = next_session_++;
    sessions_[id] = session;
    return id;
}

void IoThread::run() {
    while (!stopping_) {
        run_posted();
        const bool more = poll_fabrics();
        step_sessions();
        if (!more) wait();
    }
    run_posted();
    WEIGHTCAST_ASSERT(sessions_.empty());
    fabrics_.clear();
}

void IoThread::run_posted() {
    std::vector<std::function<void()>> jobs;
    {
        const std::lock_guard lock(mutex_);
        jobs.swap(posted_);
    }
    for (const auto& job : jobs) job();
}

bool IoThread::poll_fabrics() {
    std::array<fabric::Completion, 64> completions;
    bool more = false;
    for (const auto& fabric : fabrics_) {
        const std::size_t count = fabric->poll(completions);
        more = more || count == completions.size();
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint64_t tag = completions[i].tag.value;
            const auto session = sessions_.find(static_cast<std::uint32_t>(tag >> 40U));
            if (session == sessions_.end()) continue;
            session->second->on_completion(tag & ((std::uint64_t{1} << 40U) - 1),
                                           completions[i].status);
        }
    }
    return more;
}

void IoThread::step_sessions() {
    // A session may detach itself, or others, while it steps.
    session_ids_.clear();
    for (const auto& [id, session] : sessions_) session_ids_.push_back(id);
    const TimePoint now = system_clock().now();
    for (const std::uint32_t id : session_ids_) {
        if (const auto found = sessions_.find(id); found != sessions_.end()) {
            found->second->step(now);
        }
    }
}

void IoThread::wait() {
    std::vector<::pollfd> fds{{wake_.get(), POLLIN, 0}};
    int timeout_ms = kWaitMsMax;
    for (const auto& fabric : fabrics_) {
        const int fd = fabric->wait_fd();
        if (fd >= 0) fds.push_back({fd, POLLIN, 0});
        if (fd < 0 && !sessions_.empty()) timeout_ms = 0;
        const int wanted_ms = fabric->wait_ms();
        if (wanted_ms >= 0) timeout_ms = std::min(timeout_ms, wanted_ms);
    }
    TimePoint deadline = TimePoint::max();
    for (const auto& [id, session] : sessions_) deadline = std::min(deadline, session->deadline());
    ::timespec timeout{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
    if (deadline != TimePoint::max()) {
        const auto left = std::max<std::int64_t>(0, (deadline - system_clock().now()).count());
        if (left < std::int64_t{timeout_ms} * 1'000'000) {
            timeout = {left / 1'000'000'000, left % 1'000'000'000};
        }
    }
    const TimePoint start = system_clock().now();
    ::ppoll(fds.data(), fds.size(), &timeout, nullptr);
    idle_ = std::min(kIdleMax, idle_ + (system_clock().now() - start));
    if ((fds[0].revents & POLLIN) != 0) {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
    }
}

Result<std::vector<std::byte>> read_remote(IoThread& io, std::size_t fabric_index,
                                           const fabric::PeerAddress& peer,
                                           std::span<const std::byte> key, std::uint64_t bytes) {
    SingleRead read(io, fabric_index, bytes);
    auto done = read.done();
    WEIGHTCAST_CHECK(io.call([&] { return read.start(peer, key); }));
    done.wait();
    if (!read.error().empty()) return Error{Code::unavailable, 0, read.error()};
    return read.take();
}

}  // namespace weightcast::agent
