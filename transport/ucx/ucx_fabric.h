// Reads over whatever UCX finds between two hosts: RDMA, shared memory, TCP.
//
// A READ is an active message to the holder, whose thread checks key and range and sends the bytes
// straight from the registered memory; over RDMA UCX turns that into one transfer without a copy.
// It is not ucp_get: that costs the holder's CPU as well wherever there is no RDMA, where UCX then
// trusts the address that the reader gives. A reader could read or crash the whole process, and a
// region could not be revoked. UCX does not authenticate its peers either: serve on a network
// whose members you trust.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/ucx/ucx_handles.h"
#include "transport/ucx/ucx_server.h"

namespace weightcast::transport::ucx {

class UcxFabric final : public fabric::Fabric {
  public:
    // Errors: invalid_input (FabricOptions::listen), unavailable, io.
    static Result<std::unique_ptr<fabric::Fabric>> open(const fabric::FabricOptions& options);
    ~UcxFabric() override;

    const char* name() const override { return "ucx"; }
    bool emulated() const override { return true; }
    std::string address() const override { return server_->address(); }
    bool can_reach(const std::string& address) const override;
    Result<std::unique_ptr<fabric::Region>> register_memory(const fabric::Memory& memory,
                                                            fabric::Access access) override;
    fabric::LinkId connect(const fabric::PeerAddress& peer) override;
    void disconnect(fabric::LinkId link) override;
    std::string link_error(fabric::LinkId link) const override;
    void submit(std::span<const fabric::Read> reads) override;
    std::size_t poll(std::span<fabric::Completion> completions) override;
    int wait_fd() const override { return epoll_.get(); }
    int wait_ms() const override;
    std::uint64_t bytes_served() const override { return server_->bytes_served(); }

  private:
    enum class State { greeting, up, failed };
    struct Link {
        fabric::LinkId id;
        UcxFabric* fabric = nullptr;
        std::uint64_t cookie = 0;  // that its messages carry
        fabric::PeerAddress peer;
        State state = State::greeting;
        fabric::ReadStatus status = fabric::ReadStatus::ok;
        std::string error;
        ::ucp_ep_h endpoint = nullptr;
        Hello hello;
        TimePoint progress{};  // when something last came
        std::size_t outstanding = 0;
        std::vector<fabric::Read> waiting;  // for the greeting
        bool must_close = false;
    };
    // One read on its way; kept until UCX is done with its header and its destination.
    struct Pending {
        UcxFabric* fabric = nullptr;
        Link* link = nullptr;  // null once it was completed for another reason
        fabric::Read read;
        ReadRequest request;
        bool is_sending = false;
        bool is_receiving = false;
        bool is_answered = false;
    };

    explicit UcxFabric(const fabric::FabricOptions& options) : options_(options) {}
    Result<void> start();
    Result<void> set_handlers();
    bool open_endpoint(Link& link);
    void send_request(Link& link, const fabric::Read& read);
    void fail(Link& link, fabric::ReadStatus status, std::string error);
    // Closes the endpoint and completes all reads of the link.
    void close(Link& link, fabric::ReadStatus status);
    void check_links();
    void on_hello(const Hello& reply);
    ::ucs_status_t on_reply(const ReadReply& reply, void* data, std::size_t bytes,
                            const ::ucp_am_recv_param_t* param);
    void finish(Pending& pending, fabric::ReadStatus status);
    void release(Pending& pending);
    void wake();
    Link* find_cookie(std::uint64_t cookie);

    static ::ucs_status_t hello_callback(void* self, const void* header, std::size_t header_bytes,
                                         void* data, std::size_t bytes,
                                         const ::ucp_am_recv_param_t* param);
    static ::ucs_status_t reply_callback(void* self, const void* header, std::size_t header_bytes,
                                         void* data, std::size_t bytes,
                                         const ::ucp_am_recv_param_t* param);
    static void sent_callback(void* request, ::ucs_status_t status, void* pending);
    static void received_callback(void* request, ::ucs_status_t status, std::size_t bytes,
                                  void* pending);

    const fabric::FabricOptions options_;
    Context context_;
    std::unique_ptr<Server> server_;
    UniqueFd epoll_;
    UniqueFd wake_;  // an eventfd
    bool is_awake_ = false;
    std::map<fabric::LinkId, std::unique_ptr<Link>> links_;
    std::map<std::uint64_t, Link*> cookies_;
    std::uint32_t links_made_ = 0;
    std::map<std::uint64_t, std::unique_ptr<Pending>> pending_;
    std::uint64_t requests_made_ = 0;
    std::deque<fabric::Completion> done_;
    Worker worker_;  // after all that its callbacks use
};

}  // namespace weightcast::transport::ucx
