// The regions of a holder with their memory, filled with patterns.
#pragma once

#include <memory>
#include <vector>

#include "base/mapping.h"
#include "fabric/fabric.h"
#include "tests/contract/fabrics.h"

namespace weightcast::contract {

class Served {
  public:
    // Borrows the fabric and registers a region per plan. Aborts if that fails.
    Served(fabric::Fabric& fabric, const std::vector<RegionPlan>& plans);
    std::size_t size() const { return regions_.size(); }
    fabric::RegionKey key(std::size_t region) const { return regions_[region]->key(); }
    void drop(std::size_t region) { regions_[region].reset(); }
    void truncate(std::size_t region, std::uint64_t bytes);
    void overwrite(std::size_t region, std::uint64_t seed);
    void open_gate(std::size_t region, std::uint64_t bit);

  private:
    fabric::Fabric& fabric_;
    std::vector<SharedMemory> memory_;
    std::vector<std::unique_ptr<fabric::Region>> regions_;
};

}  // namespace weightcast::contract
