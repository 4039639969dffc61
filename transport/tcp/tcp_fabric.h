// READ emulated over TCP: the reader asks, a thread of the holder pushes the bytes.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/tcp/reader_connection.h"
#include "transport/tcp/region_table.h"
#include "transport/tcp/server.h"

namespace weightcast::transport::tcp {

class TcpFabric final : public fabric::Fabric {
  public:
    // Payload that one poll() receives at most.
    static constexpr std::uint64_t kPollBytes = 4U << 20U;

    // Errors: invalid_input, io.
    static Result<std::unique_ptr<TcpFabric>> open(const fabric::FabricOptions& options);

    const char* name() const override { return "tcp"; }
    bool emulated() const override { return true; }
    std::string address() const override;
    bool can_reach(const std::string& address) const override;
    Result<std::unique_ptr<fabric::Region>> register_memory(const fabric::Memory& memory,
                                                            fabric::Access access) override;
    fabric::LinkId connect(const fabric::PeerAddress& peer) override;
    void disconnect(fabric::LinkId link) override;
    std::string link_error(fabric::LinkId link) const override;
    void submit(std::span<const fabric::Read> reads) override;
    bool can_wait() const override { return true; }
    void gates_opened() override { server_->gates_opened(); }
    std::size_t poll(std::span<fabric::Completion> completions) override;
    int wait_fd() const override { return epoll_.get(); }
    int wait_ms() const override;
    std::uint64_t bytes_served() const override { return server_->bytes_served(); }

  private:
    struct Link {
        fabric::PeerAddress peer;
        // None before the first read, nor once failed.
        std::vector<std::unique_ptr<ReaderConnection>> connections;
        Failure failure;
    };
    // Names a connection in the epoll set and in lists.
    struct ConnectionName {
        std::uint32_t link = 0;
        std::uint32_t index = 0;
    };

    TcpFabric(const fabric::FabricOptions& options, UniqueFd epoll, UniqueFd signal);

    void open_connections(std::uint32_t id, Link& link);
    Result<std::unique_ptr<ReaderConnection>> open_connection(const fabric::PeerAddress& peer,
                                                              ConnectionName name);
    void start_read(const fabric::Read& read, TimePoint now);
    void progress(TimePoint now);
    void on_event(ConnectionName name, std::uint64_t bytes_max, TimePoint now);
    void flush(ConnectionName name);
    void update_watch(ReaderConnection& connection, ConnectionName name);
    void fail(Link& link, Failure failure);
    void check_deadlines(TimePoint now);
    ReaderConnection* find(ConnectionName name);
    // Makes wait_fd() readable while completions wait.
    void update_signal();

    const fabric::FabricOptions options_;
    const Duration progress_max_;
    std::shared_ptr<RegionTable> regions_;  // shared with the regions, which may outlive this
    std::unique_ptr<Server> server_;
    UniqueFd epoll_;
    UniqueFd signal_;
    bool signalled_ = false;
    std::unordered_map<std::uint32_t, Link> links_;
    std::uint32_t next_link_ = 1;
    Ring<fabric::Completion> done_;
    std::vector<ConnectionName> unflushed_;
    TimePoint next_deadline_ = TimePoint::max();  // no deadline is earlier
};

}  // namespace weightcast::transport::tcp
