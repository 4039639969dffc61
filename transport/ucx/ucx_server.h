// The holder's side: a thread that answers read requests. It sleeps while there are none.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "transport/ucx/region_table.h"
#include "transport/ucx/ucx_handles.h"

namespace weightcast::transport::ucx {

class Server {
  public:
    // Errors: invalid_input (the address), io.
    static Result<std::unique_ptr<Server>> start(::ucp_context_h context,
                                                 const fabric::FabricOptions& options);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    const std::string& address() const { return address_; }
    // Shared with the regions, which may outlive the server.
    const std::shared_ptr<RegionTable>& regions() const { return regions_; }
    std::uint64_t bytes_served() const { return bytes_served_.load(std::memory_order_relaxed); }

  private:
    struct Request {
        ::ucp_ep_h endpoint = nullptr;
        ReadRequest read;
    };
    // Kept until UCX is done with it, even if its endpoint was dropped.
    struct Reply {
        Server* server = nullptr;
        std::uint64_t id = 0;
        ::ucp_ep_h endpoint = nullptr;
        ReadReply header;
        Hello hello;
        std::shared_ptr<Served> served;  // null: nothing is read
        std::vector<std::byte> copy;     // of a file that may shrink
        std::uint64_t bytes = 0;
    };

    explicit Server(const fabric::FabricOptions& options) : options_(options) {}
    Result<void> listen(::ucp_context_h context);
    void run();
    bool step();
    bool answer_one();
    void close_broken();
    int wait_ms() const;
    void start_reply(const Request& request);
    // Fills in status, bytes and the memory to send from.
    const std::byte* prepare(Reply& reply, const ReadRequest& read);
    void send(unsigned message_id, std::unique_ptr<Reply> reply, const std::byte* data);
    void complete(Reply& reply, ::ucs_status_t status);
    void drop_endpoint(::ucp_ep_h endpoint);
    void check_removals();
    ::ucs_status_t on_message(unsigned id, const void* header, std::size_t header_bytes,
                              const ::ucp_am_recv_param_t* param);
    void on_connection(::ucp_conn_request_h request);

    template <unsigned kId>
    static ::ucs_status_t message_callback(void* self, const void* header, std::size_t header_bytes,
                                           void* data, std::size_t bytes,
                                           const ::ucp_am_recv_param_t* param);
    static void sent_callback(void* request, ::ucs_status_t status, void* reply);

    const fabric::FabricOptions options_;
    std::string address_;
    std::shared_ptr<RegionTable> regions_;
    std::atomic<bool> stop_ = false;
    std::atomic<std::uint64_t> bytes_served_ = 0;
    // Of the thread.
    std::map<::ucp_ep_h, bool> endpoints_;  // true: broken
    std::deque<Request> requests_;
    std::map<std::uint64_t, std::unique_ptr<Reply>> replies_;
    std::uint64_t replies_made_ = 0;
    std::uint64_t copy_bytes_ = 0;  // in all replies
    TimePoint rate_open_{};         // from when the rate cap allows the next reply
    TimePoint removal_end_{};       // by when peers must have finished reads of removed regions
    // After all that their callbacks use.
    Worker worker_;
    Listener listener_;
    std::thread thread_;
};

}  // namespace weightcast::transport::ucx
