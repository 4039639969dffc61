// A Region of a transport that knows its exported memory by random keys in a table.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "fabric/fabric.h"

namespace weightcast::fabric {

// `Table::remove(key)` revokes the key, as ~Region() demands. `Key` is an array of bytes.
template <typename Table, typename Key>
class KeyedRegion final : public Region {
  public:
    // For Access::local.
    explicit KeyedRegion(std::span<std::byte> bytes) : bytes_(bytes) {}
    // The table is shared, because a region may outlive its fabric.
    KeyedRegion(std::span<std::byte> bytes, const Key& key, std::shared_ptr<Table> table)
        : bytes_(bytes), key_(key), table_(std::move(table)) {}
    ~KeyedRegion() override {
        if (table_) table_->remove(key_);
    }
    std::span<std::byte> bytes() const override { return bytes_; }
    RegionKey key() const override {
        if (!table_) return {};
        return {key_.begin(), key_.end()};
    }

  private:
    std::span<std::byte> bytes_;
    Key key_{};
    std::shared_ptr<Table> table_;  // null: Access::local
};

}  // namespace weightcast::fabric
