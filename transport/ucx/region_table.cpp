#include "transport/ucx/region_table.h"

#include <sys/eventfd.h>

#include <algorithm>

#include "base/random.h"

namespace weightcast::transport::ucx {

Key RegionTable::add(const fabric::Memory& memory) {
    const Key key = random_identity();
    const std::lock_guard lock(mutex_);
    regions_.emplace(key, std::make_shared<Served>(Served{memory, 0}));
    return key;
}

void RegionTable::remove(const Key& key) {
    std::unique_lock lock(mutex_);
    const auto found = regions_.find(key);
    if (found == regions_.end()) return;
    const auto served = found->second;
    regions_.erase(found);
    if (!is_serving_) return;
    removed_.push_back(served);
    ::eventfd_write(wake_.get(), 1);
    settled_.wait(lock, [this, &served] {
        return !is_serving_ ||
               std::find(removed_.begin(), removed_.end(), served) == removed_.end();
    });
}

std::shared_ptr<Served> RegionTable::find(const Key& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = regions_.find(key);
    return found == regions_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Served>> RegionTable::removed() const {
    const std::lock_guard lock(mutex_);
    return removed_;
}

void RegionTable::settle() {
    const std::lock_guard lock(mutex_);
    std::erase_if(removed_, [](const auto& served) { return served->in_flight == 0; });
    settled_.notify_all();
}

void RegionTable::stop_serving() {
    const std::lock_guard lock(mutex_);
    is_serving_ = false;
    removed_.clear();
    settled_.notify_all();
}

}  // namespace weightcast::transport::ucx
