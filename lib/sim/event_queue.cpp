#include "sim/event_queue.h"

#include <algorithm>

#include "base/assert.h"

namespace weightcast::sim {
namespace {

constexpr std::size_t kChildren = 4;

bool before(const Event& a, const Event& b) {
    return a.at_ns != b.at_ns ? a.at_ns < b.at_ns : a.order < b.order;
}

}  // namespace

void EventQueue::put(std::int64_t at_ns, EventKind kind, std::uint32_t subject,
                     std::uint32_t detail) {
    WEIGHTCAST_ASSERT(at_ns >= now_ns_);
    const Event event{at_ns, next_order_++, kind, subject, detail};
    ++size_;
    if (kind != EventKind::request && kind != EventKind::page) return push(event);
    auto& lane = lanes_[kind == EventKind::page ? 1 : 0];
    WEIGHTCAST_ASSERT(lane.empty() || lane.back().at_ns <= at_ns);
    lane.push_back(event);
}

std::int64_t EventQueue::next_ns() const {
    std::int64_t next = heap_.empty() ? INT64_MAX : heap_.front().at_ns;
    for (const auto& lane : lanes_) {
        if (!lane.empty()) next = std::min(next, lane.front().at_ns);
    }
    return next;
}

Event EventQueue::take() {
    std::deque<Event>* first = nullptr;
    for (auto& lane : lanes_) {
        if (lane.empty()) continue;
        if (first == nullptr || before(lane.front(), first->front())) first = &lane;
    }
    const bool heap = first == nullptr || (!heap_.empty() && before(heap_.front(), first->front()));
    const Event event = heap ? pop() : first->front();
    if (!heap) first->pop_front();
    --size_;
    now_ns_ = event.at_ns;
    ++taken_;
    return event;
}

void EventQueue::push(const Event& event) {
    std::size_t at = heap_.size();
    heap_.push_back(event);
    while (at > 0) {
        const std::size_t parent = (at - 1) / kChildren;
        if (!before(event, heap_[parent])) break;
        heap_[at] = heap_[parent];
        at = parent;
    }
    heap_[at] = event;
}

Event EventQueue::pop() {
    const Event first = heap_.front();
    const Event last = heap_.back();
    heap_.pop_back();
    const std::size_t size = heap_.size();
    std::size_t at = 0;
    while (true) {
        const std::size_t begin = at * kChildren + 1;
        if (begin >= size) break;
        const std::size_t end = std::min(begin + kChildren, size);
        std::size_t least = begin;
        for (std::size_t child = begin + 1; child < end; ++child) {
            if (before(heap_[child], heap_[least])) least = child;
        }
        if (!before(heap_[least], last)) break;
        heap_[at] = heap_[least];
        at = least;
    }
    if (size > 0) heap_[at] = last;
    return first;
}

}  // namespace weightcast::sim
