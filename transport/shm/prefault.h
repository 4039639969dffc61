// Brings pages of mappings into the page table ahead of their use, on a thread of its own, and
// unmaps them there: either takes a good part of the time that copying the pages does.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "base/mapping.h"

namespace weightcast::transport::shm {

// Thread-safe. Only makes the first touch of a page cheaper: a page that it has not reached yet
// faults as usual.
class Prefault {
  public:
    Prefault();
    // Leaves what is queued.
    ~Prefault();
    Prefault(const Prefault&) = delete;
    Prefault& operator=(const Prefault&) = delete;

    // `first` is a multiple of the page size. Shared, so that the pages outlive the work on them.
    void want(std::shared_ptr<const Mapping> mapping, std::size_t first, std::size_t bytes);
    // Drops the reference on this thread, which unmaps the pages if it was the last one.
    void release(std::shared_ptr<const Mapping> mapping) { want(std::move(mapping), 0, 0); }

  private:
    struct Wanted {
        std::shared_ptr<const Mapping> mapping;
        std::size_t first = 0;
        std::size_t bytes = 0;
    };
    void run();

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Wanted> wanted_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace weightcast::transport::shm
