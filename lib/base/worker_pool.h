// Threads that run small jobs: digests and file writes, off the I/O thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "weightcast/result.h"

namespace weightcast {

// Thread-safe. A thread starts when a job finds none that waits. The destructor runs what is queued
// and joins.
class WorkerPool {
  public:
    explicit WorkerPool(unsigned threads_max) : threads_max_(threads_max) {}
    ~WorkerPool();
    WorkerPool(const WorkerPool&) = delete;
    WorkerPool& operator=(const WorkerPool&) = delete;

    void post(std::function<void()> job);

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> jobs_;
    bool stopping_ = false;
    std::size_t waiting_ = 0;  // threads
    const unsigned threads_max_;
    std::vector<std::thread> threads_;
};

// Cores this process may use, at least 1.
unsigned usable_cores();

// Runs body(i) for each i below `count` on all usable cores, each thread taking the next free i.
// Returns after the last; `body` is called from several threads at once.
void parallel_for(std::size_t count, const std::function<void(std::size_t)>& body);
// The same; gives the first error, after the others have run.
Result<void> parallel_try(std::size_t count, const std::function<Result<void>(std::size_t)>& body);

}  // namespace weightcast
