// A first-in first-out queue that reuses its memory, so that a steady state allocates nothing.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "base/assert.h"

namespace weightcast::transport::tcp {

template <typename T>
class Ring {
  public:
    bool empty() const { return size_ == 0; }
    std::size_t size() const { return size_; }

    // REQUIRES: !empty()
    T& front() {
        WEIGHTCAST_ASSERT(size_ > 0);
        return slots_[first_];
    }

    void push(T value) {
        if (size_ == slots_.size()) grow();
        slots_[(first_ + size_) & (slots_.size() - 1)] = std::move(value);
        ++size_;
    }

    // REQUIRES: !empty()
    void pop() {
        WEIGHTCAST_ASSERT(size_ > 0);
        first_ = (first_ + 1) & (slots_.size() - 1);
        --size_;
    }

  private:
    void grow() {
        std::vector<T> larger(slots_.empty() ? 16 : slots_.size() * 2);
        for (std::size_t i = 0; i < size_; ++i) {
            larger[i] = std::move(slots_[(first_ + i) & (slots_.size() - 1)]);
        }
        slots_ = std::move(larger);
        first_ = 0;
    }

    std::vector<T> slots_;  // a power of two of them
    std::size_t first_ = 0;
    std::size_t size_ = 0;
};

}  // namespace weightcast::transport::tcp
