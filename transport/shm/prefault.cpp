#include "transport/shm/prefault.h"

#include <sys/mman.h>

#include <csignal>
#include <utility>

namespace weightcast::transport::shm {

Prefault::Prefault() {
    // The process's signals are for its own threads.
    ::sigset_t all;
    ::sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Prefault::~Prefault() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
}

void Prefault::want(std::shared_ptr<const Mapping> mapping, std::size_t first, std::size_t bytes) {
    {
        const std::lock_guard lock(mutex_);
        wanted_.push_back({std::move(mapping), first, bytes});
    }
    wake_.notify_one();
}

void Prefault::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        wake_.wait(lock, [this] { return stopping_ || !wanted_.empty(); });
        if (stopping_) return;
        Wanted next = std::move(wanted_.front());
        wanted_.pop_front();
        lock.unlock();
        // Where the kernel is older than 5.14 this fails, and the reader's own faults do it.
        if (next.bytes > 0) {
            ::madvise(next.mapping->data() + next.first, next.bytes, MADV_POPULATE_READ);
        }
        next.mapping.reset();
        lock.lock();
    }
}

}  // namespace weightcast::transport::shm
