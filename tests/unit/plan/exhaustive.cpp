// A search by breadth: all states that can be reached in a number of slots.
#include "tests/unit/plan/exhaustive.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "base/assert.h"

namespace weightcast::plan {
namespace {

constexpr std::uint32_t kEnough = 1000;  // units a slot, for a rate without limit

std::uint32_t units_of(double rate) {
    return rate > 0 ? static_cast<std::uint32_t>(rate) : kEnough;
}

// Of one block at one receiver: nothing, so many units of it from a sender, or all.
struct Cell {
    std::uint32_t rank = 0;
    std::uint32_t block = 0;
    std::uint32_t sender = 0;
    std::uint32_t units = 0;
};

class Search {
  public:
    explicit Search(const SmallFleet& fleet) : fleet_(fleet), ranks_(fleet.topology.ranks) {
        for (const RackSpec& rack : fleet.topology.racks) {
            rack_up_.push_back(units_of(rack.up));
            rack_down_.push_back(units_of(rack.down));
        }
        for (const HostSpec& host : fleet.topology.hosts) local_.push_back(units_of(host.local));
        for (std::uint32_t i = 0; i < ranks_.size(); ++i) {
            up_.push_back(units_of(ranks_[i].up));
            down_.push_back(units_of(ranks_[i].down));
            for (std::uint32_t b = 0; b < fleet.blocks && !ranks_[i].source; ++b) {
                cells_.push_back({i, b, 0, 0});
            }
        }
    }

    std::uint32_t run() {
        std::unordered_set<std::uint64_t> seen{code()};
        std::vector<std::uint64_t> now{code()};
        const std::uint64_t done = done_code();
        for (std::uint32_t slots = 0;; ++slots) {
            WEIGHTCAST_ASSERT(!now.empty());
            if (seen.contains(done)) return slots;
            next_.clear();
            for (const std::uint64_t state : now) {
                load(state);
                had_ = has_all();
                try_from(0);
            }
            now.clear();
            for (const std::uint64_t state : next_) {
                if (seen.insert(state).second) now.push_back(state);
            }
        }
    }

  private:
    std::uint64_t values() const { return ranks_.size() * fleet_.block_units + 1; }
    // Units of the whole block are the same from any sender.
    std::uint64_t code() const {
        std::uint64_t code = 0;
        for (const Cell& cell : cells_) {
            const bool whole = cell.units == fleet_.block_units;
            const std::uint64_t value =
                cell.units == 0 ? 0
                : whole         ? 1
                                : 2 + cell.sender * (fleet_.block_units - 1) + cell.units - 1;
            code = code * values() + value;
        }
        return code;
    }
    std::uint64_t done_code() const {
        std::uint64_t code = 0;
        for (std::size_t i = 0; i < cells_.size(); ++i) code = code * values() + 1;
        return code;
    }
    void load(std::uint64_t code) {
        for (std::size_t i = cells_.size(); i-- > 0; code /= values()) {
            const auto value = static_cast<std::uint32_t>(code % values());
            cells_[i].sender = 0;
            cells_[i].units = value == 0 ? 0 : fleet_.block_units;
            if (value < 2) continue;
            cells_[i].sender = (value - 2) / (fleet_.block_units - 1);
            cells_[i].units = (value - 2) % (fleet_.block_units - 1) + 1;
        }
    }
    // By rank and block.
    std::vector<bool> has_all() const {
        std::vector<bool> has(ranks_.size() * fleet_.blocks, true);
        for (const Cell& cell : cells_) {
            has[cell.rank * fleet_.blocks + cell.block] = cell.units == fleet_.block_units;
        }
        return has;
    }

    // All that the cells from `at` on can do in this slot with what is left of the rates.
    void try_from(std::size_t at) {
        if (at == cells_.size()) {
            next_.insert(code());
            return;
        }
        try_from(at + 1);
        const Cell cell = cells_[at];
        if (cell.units == fleet_.block_units) return;
        for (std::uint32_t sender = 0; sender < ranks_.size(); ++sender) {
            if (cell.units > 0 && sender != cell.sender) continue;
            if (sender == cell.rank || !had_[sender * fleet_.blocks + cell.block]) continue;
            std::vector<std::uint32_t*> path = path_of(sender, cell.rank);
            std::uint32_t most = fleet_.block_units - cell.units;
            for (const std::uint32_t* rate : path) most = std::min(most, *rate);
            for (std::uint32_t units = 1; units <= most; ++units) {
                for (std::uint32_t* rate : path) *rate -= units;
                cells_[at] = {cell.rank, cell.block, sender, cell.units + units};
                try_from(at + 1);
                for (std::uint32_t* rate : path) *rate += units;
            }
            cells_[at] = cell;
        }
    }
    std::vector<std::uint32_t*> path_of(std::uint32_t from, std::uint32_t to) {
        const std::uint32_t host = ranks_[from].host;
        if (host == ranks_[to].host) return {&local_[host]};
        std::vector<std::uint32_t*> path{&up_[from], &down_[to]};
        const std::uint32_t rack = fleet_.topology.hosts[host].rack;
        const std::uint32_t to_rack = fleet_.topology.hosts[ranks_[to].host].rack;
        if (rack != to_rack) path.insert(path.end(), {&rack_up_[rack], &rack_down_[to_rack]});
        return path;
    }

    const SmallFleet& fleet_;
    const std::vector<RankSpec>& ranks_;
    std::vector<Cell> cells_;
    std::vector<bool> had_;
    std::unordered_set<std::uint64_t> next_;
    // What is left in a slot.
    std::vector<std::uint32_t> up_;
    std::vector<std::uint32_t> down_;
    std::vector<std::uint32_t> rack_up_;
    std::vector<std::uint32_t> rack_down_;
    std::vector<std::uint32_t> local_;
};

}  // namespace

std::uint32_t least_slots(const SmallFleet& fleet) { return Search(fleet).run(); }

}  // namespace weightcast::plan
