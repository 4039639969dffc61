// The reads that a verbs fabric has accepted and not completed, in a table that grows to the most
// there ever were. Thread-bound.
#pragma once

#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "fabric/fabric.h"
#include "transport/verbs/registration.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {

inline constexpr std::uint32_t kNoOperation = UINT32_MAX;

struct Operation {
    fabric::ReadTag tag;
    const VerbsRegion* local = nullptr;
    KeyView key;  // borrows the read's
    std::uint64_t local_offset = 0;
    std::uint64_t remote_offset = 0;
    std::uint64_t bytes = 0;
    std::uint64_t handed_out = 0;       // bytes of pieces that were made
    std::uint32_t outstanding = 0;      // pieces that are not settled
    std::uint32_t next = kNoOperation;  // in its queue, or in the list of free entries
    bool queued = false;
    fabric::ReadStatus status = fabric::ReadStatus::ok;

    bool done() const { return outstanding == 0 && !queued; }
};

class OperationTable {
  public:
    std::uint32_t add() {
        if (free_ == kNoOperation) {
            operations_.emplace_back();
            return static_cast<std::uint32_t>(operations_.size() - 1);
        }
        const std::uint32_t index = free_;
        free_ = operations_[index].next;
        operations_[index] = {};
        return index;
    }
    void remove(std::uint32_t index) {
        operations_[index].next = free_;
        free_ = index;
    }
    Operation& operator[](std::uint32_t index) { return operations_[index]; }

  private:
    std::vector<Operation> operations_;
    std::uint32_t free_ = kNoOperation;
};

// Operations in the order of their arrival.
class OperationQueue {
  public:
    explicit OperationQueue(OperationTable& table) : table_(table) {}
    bool empty() const { return first_ == kNoOperation; }
    std::uint32_t front() const { return first_; }
    void push(std::uint32_t index) {
        Operation& operation = table_[index];
        operation.queued = true;
        operation.next = kNoOperation;
        (empty() ? first_ : table_[last_].next) = index;
        last_ = index;
    }
    std::uint32_t pop() {
        WEIGHTCAST_ASSERT(!empty());
        const std::uint32_t index = first_;
        first_ = table_[index].next;
        table_[index].queued = false;
        return index;
    }

  private:
    OperationTable& table_;
    std::uint32_t first_ = kNoOperation;
    std::uint32_t last_ = kNoOperation;
};

// Completions that nobody has polled yet: a ring that grows to the most there ever were.
class CompletionRing {
  public:
    bool empty() const { return head_ == tail_; }
    void push(fabric::Completion completion) {
        if (tail_ - head_ == ring_.size()) grow();
        ring_[tail_++ & (ring_.size() - 1)] = completion;
    }
    fabric::Completion pop() { return ring_[head_++ & (ring_.size() - 1)]; }

  private:
    void grow() {
        std::vector<fabric::Completion> larger(ring_.size() * 2);
        const std::uint64_t count = tail_ - head_;
        for (std::uint64_t i = 0; i < count; ++i)
            larger[i] = ring_[(head_ + i) & (ring_.size() - 1)];
        head_ = 0;
        tail_ = count;
        ring_.swap(larger);
    }
    std::vector<fabric::Completion> ring_ = std::vector<fabric::Completion>(256);
    std::uint64_t head_ = 0;
    std::uint64_t tail_ = 0;
};

}  // namespace weightcast::transport::verbs
