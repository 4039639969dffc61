#include "transport/tcp/region_table.h"

#include <utility>

#include "base/assert.h"
#include "base/random.h"

namespace weightcast::transport::tcp {

RegionTable::Serving::Serving(RegionTable& table, const RegionId& id) : table_(table) {
    const std::lock_guard lock(table_.mutex_);
    const auto found = table_.regions_.find(id);
    if (found == table_.regions_.end()) return;
    WEIGHTCAST_ASSERT(table_.serving_ == nullptr);
    memory_ = found->second.get();
    table_.serving_ = memory_;
}

RegionTable::Serving::~Serving() {
    if (memory_ == nullptr) return;
    {
        const std::lock_guard lock(table_.mutex_);
        table_.serving_ = nullptr;
    }
    table_.released_.notify_all();
}

void RegionTable::add(const RegionId& id, const fabric::Memory& memory) {
    const std::lock_guard lock(mutex_);
    const bool added = regions_.emplace(id, std::make_unique<fabric::Memory>(memory)).second;
    WEIGHTCAST_ASSERT(added);
}

void RegionTable::revoke(const RegionId& id) {
    std::unique_lock lock(mutex_);
    // Taken out of the map first, so that a busy server cannot find it again.
    const auto found = regions_.find(id);
    WEIGHTCAST_ASSERT(found != regions_.end());
    const auto memory = std::move(found->second);
    regions_.erase(found);
    ++revocations_;
    released_.wait(lock, [&] { return serving_ != memory.get(); });
}

TcpRegion::TcpRegion(const fabric::Memory& memory, fabric::Access access,
                     std::shared_ptr<RegionTable> table)
    : bytes_(memory.bytes), access_(access), table_(std::move(table)) {
    if (access_ != fabric::Access::remote_read) return;
    id_ = random_identity();
    table_->add(id_, memory);
}

TcpRegion::~TcpRegion() {
    if (access_ == fabric::Access::remote_read) table_->revoke(id_);
}

fabric::RegionKey TcpRegion::key() const {
    return access_ == fabric::Access::remote_read ? encode_key(id_) : fabric::RegionKey{};
}

}  // namespace weightcast::transport::tcp
