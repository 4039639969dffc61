// The thread that drives a process's fabrics, and the sessions that use them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"

namespace weightcast::agent {

// Something that reads through fabrics. All calls come from the I/O thread.
class IoSession {
  public:
    virtual ~IoSession() = default;
    virtual void on_completion(std::uint64_t tag, fabric::ReadStatus status) = 0;
    // Called after completions and posted work, and when deadline() has passed.
    virtual void step(TimePoint now) = 0;
    virtual TimePoint deadline() const = 0;
};

class IoThread {
  public:
    explicit IoThread(std::vector<std::unique_ptr<fabric::Fabric>> fabrics);
    // Runs what is posted, then destroys the fabrics. REQUIRES: no session attached, no region left
    ~IoThread();
    IoThread(const IoThread&) = delete;
    IoThread& operator=(const IoThread&) = delete;

    // Thread-safe. Never blocks.
    void post(std::function<void()> job);
    // Runs `job` on the I/O thread and gives its value. Thread-safe.
    template <typename Job>
    auto call(Job job) -> std::invoke_result_t<Job> {
        if (std::this_thread::get_id() == thread_.get_id()) return job();
        std::packaged_task<std::invoke_result_t<Job>()> task(std::move(job));
        auto future = task.get_future();
        post([&task] { task(); });
        return future.get();
    }

    // The rest is for the I/O thread only.

    const std::vector<std::unique_ptr<fabric::Fabric>>& fabrics() const { return fabrics_; }
    // Local tags of a session, below 2^40, become unique in the process.
    std::uint32_t attach(IoSession* session);
    void detach(std::uint32_t id) { sessions_.erase(id); }
    // Runs `job` if this thread has waited for longer lately than it has spent on such jobs: so
    // what is small is done here, with warm caches and without waking anybody, as long as nothing
    // else waits for this thread. False if it did not run.
    template <typename Job>
    bool run_if_idle(const Job& job) {
        if (idle_ <= Duration::zero()) return false;
        const TimePoint start = system_clock().now();
        job();
        idle_ -= system_clock().now() - start;
        return true;
    }
    static fabric::ReadTag tag(std::uint32_t session, std::uint64_t local) {
        return fabric::ReadTag((std::uint64_t{session} << 40U) | local);
    }

  private:
    void run();
    void run_posted();
    // True if there may be more.
    bool poll_fabrics();
    void step_sessions();
    void wait();

    std::vector<std::unique_ptr<fabric::Fabric>> fabrics_;
    std::map<std::uint32_t, IoSession*> sessions_;
    std::vector<std::uint32_t> session_ids_;  // scratch
    std::uint32_t next_session_ = 1;
    Duration idle_{};  // that may be spent
    UniqueFd wake_;
    std::mutex mutex_;
    std::vector<std::function<void()>> posted_;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

// Reads `bytes` bytes from the start of a peer's region over one fabric. Blocks; not for the I/O
// thread. Errors: unavailable, timed_out, stale, no_space.
Result<std::vector<std::byte>> read_remote(IoThread& io, std::size_t fabric_index,
                                           const fabric::PeerAddress& peer,
                                           std::span<const std::byte> key, std::uint64_t bytes);

}  // namespace weightcast::agent
