// The regions that the ucx server may read for its peers.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/unique_fd.h"
#include "transport/ucx/ucx_handles.h"

namespace weightcast::transport::ucx {

struct Served {
    fabric::Memory memory;
    std::size_t in_flight = 0;  // replies that read from it; of the server's thread
};

// Registered regions. Thread-safe.
class RegionTable {
  public:
    // `wake` is an eventfd of the server.
    explicit RegionTable(UniqueFd wake) : wake_(std::move(wake)) {}
    Key add(const fabric::Memory& memory);
    // Returns when nobody reads the region any more.
    void remove(const Key& key);

    // Of the server's thread.
    std::shared_ptr<Served> find(const Key& key) const;
    std::vector<std::shared_ptr<Served>> removed() const;
    // Tells those who wait for a removal that it is done.
    void settle();
    void stop_serving();
    int wake_fd() const { return wake_.get(); }

  private:
    const UniqueFd wake_;
    mutable std::mutex mutex_;
    std::condition_variable settled_;
    bool is_serving_ = true;
    // Shared with the replies in flight, whose number tells when a removal is done.
    std::map<Key, std::shared_ptr<Served>> regions_;
    std::vector<std::shared_ptr<Served>> removed_;
};

}  // namespace weightcast::transport::ucx
