// The holder's side: a thread that hands out region descriptors. It is idle while peers copy.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/shm/region_table.h"

namespace weightcast::transport::shm {

class Server {
  public:
    // Listens on the abstract socket `name` for peers of our user, or of root.
    // Errors: io, no_space.
    static Result<std::unique_ptr<Server>> start(const std::string& name,
                                                 const fabric::Incarnation& incarnation,
                                                 std::shared_ptr<const RegionTable> regions);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

  private:
    Server(const fabric::Incarnation& incarnation, std::shared_ptr<const RegionTable> regions)
        : incarnation_(incarnation), regions_(std::move(regions)) {}
    Result<void> listen(const std::string& name);
    void run();
    void accept_one();
    // False: close the connection.
    bool serve_one(int connection);

    const fabric::Incarnation incarnation_;
    const std::shared_ptr<const RegionTable> regions_;
    UniqueFd listener_;
    UniqueFd epoll_;
    UniqueFd stop_;   // an eventfd
    UniqueFd spare_;  // given up for a moment to turn a peer away when descriptors run out
    std::map<int, UniqueFd> connections_;
    std::thread thread_;
};

}  // namespace weightcast::transport::shm
