#include "transport/ucx/ucx_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace weightcast::transport::ucx {
namespace {

using fabric::ReadStatus;

constexpr std::size_t kEndpointsMax = 4096;
constexpr std::size_t kRequestsMax = 65536;         // queued, of all peers
constexpr std::size_t kRepliesMax = 64;             // in flight, to all peers
constexpr std::uint64_t kCopyBytesMax = 8U << 20U;  // copies of files in flight, but for the last
constexpr std::uint64_t kFileReadBytesMax = 64U << 20U;  // copied for one read of a file

}  // namespace

Result<std::unique_ptr<Server>> Server::start(::ucp_context_h context,
                                              const fabric::FabricOptions& options) {
    std::unique_ptr<Server> server(new Server(options));
    WEIGHTCAST_CHECK(server->listen(context));
    server->thread_ = std::thread([self = server.get()] { self->run(); });
    return server;
}

Server::~Server() {
    stop_.store(true);
    if (regions_) ::eventfd_write(regions_->wake_fd(), 1);
    if (thread_.joinable()) thread_.join();
    if (regions_) regions_->stop_serving();
}

Result<void> Server::listen(::ucp_context_h context) {
    UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake) return system_error(errno, "cannot create an eventfd");
    regions_ = std::make_shared<RegionTable>(std::move(wake));
    WEIGHTCAST_TRY(worker_, make_worker(context));
    for (const unsigned id : {kHelloId, kReadId}) {
        ::ucp_am_handler_param_t handler{};
        handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                             UCP_AM_HANDLER_PARAM_FIELD_ARG;
        handler.id = id;
        handler.cb = id == kHelloId ? &message_callback<kHelloId> : &message_callback<kReadId>;
        handler.arg = this;
        if (const auto status = ::ucp_worker_set_am_recv_handler(worker_.get(), &handler);
            status != UCS_OK) {
            return ucx_error(Code::io, status, "ucp_worker_set_am_recv_handler");
        }
    }
    WEIGHTCAST_TRY(SocketAddress at, parse_listen(options_.listen));
    ::ucp_listener_params_t params{};
    params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
    params.sockaddr = {reinterpret_cast<const ::sockaddr*>(&at.storage), at.bytes};
    params.conn_handler.cb = [](::ucp_conn_request_h request, void* self) {
        static_cast<Server*>(self)->on_connection(request);
    };
    params.conn_handler.arg = this;
    ::ucp_listener_h listener = nullptr;
    if (const auto status = ::ucp_listener_create(worker_.get(), &params, &listener);
        status != UCS_OK) {
        return ucx_error(Code::io, status, "ucp_listener_create on " + options_.listen);
    }
    listener_.reset(listener);
    ::ucp_listener_attr_t attributes{};
    attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
    if (const auto status = ::ucp_listener_query(listener, &attributes); status != UCS_OK) {
        return ucx_error(Code::io, status, "ucp_listener_query");
    }
    at.storage = attributes.sockaddr;
    address_ = at.text();
    return success();
}

void Server::run() {
    int worker_fd = -1;
    if (::ucp_worker_get_efd(worker_.get(), &worker_fd) != UCS_OK) {
        log(LogLevel::error, "ucx cannot wait for peers and stops serving");
        return;
    }
    while (!stop_.load()) {
        while (step()) {
        }
        if (::ucp_worker_arm(worker_.get()) == UCS_ERR_BUSY) continue;
        std::array<::pollfd, 2> waits{{{worker_fd, POLLIN, 0}, {regions_->wake_fd(), POLLIN, 0}}};
        ::poll(waits.data(), waits.size(), wait_ms());
        ::eventfd_t ignored = 0;
        ::eventfd_read(regions_->wake_fd(), &ignored);
    }
    while (!endpoints_.empty()) drop_endpoint(endpoints_.begin()->first);
}

// Returns whether something was done.
bool Server::step() {
    bool has_progress = ::ucp_worker_progress(worker_.get()) != 0;
    close_broken();
    while (answer_one()) has_progress = true;
    check_removals();
    return has_progress && !stop_.load();
}

int Server::wait_ms() const {
    TimePoint until = TimePoint::max();
    if (!requests_.empty() && replies_.size() < kRepliesMax && copy_bytes_ < kCopyBytesMax) {
        until = rate_open_;
    }
    if (removal_end_ != TimePoint{}) until = std::min(until, removal_end_);
    if (until == TimePoint::max()) return -1;
    const auto left = until - system_clock().now();
    const auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    return static_cast<int>(std::clamp<std::int64_t>(left_ms, 0, 60000));
}

void Server::on_connection(::ucp_conn_request_h request) {
    if (endpoints_.size() >= kEndpointsMax) {
        ::ucp_listener_reject(listener_.get(), request);
        return;
    }
    ::ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                        UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    params.conn_request = request;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = [](void* self, ::ucp_ep_h endpoint, ::ucs_status_t) {
        auto& endpoints = static_cast<Server*>(self)->endpoints_;
        if (const auto found = endpoints.find(endpoint); found != endpoints.end()) {
            found->second = true;
        }
    };
    params.err_handler.arg = this;
    ::ucp_ep_h endpoint = nullptr;
    if (::ucp_ep_create(worker_.get(), &params, &endpoint) == UCS_OK) {
        endpoints_.emplace(endpoint, false);
    }
}

template <unsigned kId>
::ucs_status_t Server::message_callback(void* self, const void* header, std::size_t header_bytes,
                                        void*, std::size_t, const ::ucp_am_recv_param_t* param) {
    return static_cast<Server*>(self)->on_message(kId, header, header_bytes, param);
}

::ucs_status_t Server::on_message(unsigned id, const void* header, std::size_t header_bytes,
                                  const ::ucp_am_recv_param_t* param) {
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return UCS_OK;
    const auto endpoint = endpoints_.find(param->reply_ep);
    if (endpoint == endpoints_.end() || endpoint->second) return UCS_OK;
    if (id == kHelloId && header_bytes == sizeof(Hello)) {
        auto reply = std::make_unique<Reply>();
        std::memcpy(&reply->hello, header, sizeof(Hello));
        if (reply->hello.magic != kMagic) {
            endpoint->second = true;
            return UCS_OK;
        }
        reply->hello.incarnation = options_.incarnation;
        reply->endpoint = param->reply_ep;
        send(kHelloReplyId, std::move(reply), nullptr);
    } else if (id == kReadId && header_bytes == sizeof(ReadRequest) &&
               requests_.size() < kRequestsMax) {
        Request request{param->reply_ep, {}};
        std::memcpy(&request.read, header, sizeof(ReadRequest));
        requests_.push_back(request);
    } else {
        endpoint->second = true;
    }
    return UCS_OK;
}

bool Server::answer_one() {
    if (requests_.empty() || replies_.size() >= kRepliesMax) return false;
    if (copy_bytes_ >= kCopyBytesMax) return false;
    if (options_.serve_rate_max > 0 && system_clock().now() < rate_open_) return false;
    const Request request = requests_.front();
    requests_.pop_front();
    start_reply(request);
    return true;
}

void Server::start_reply(const Request& request) {
    auto reply = std::make_unique<Reply>();
    reply->endpoint = request.endpoint;
    reply->header.link = request.read.link;
    reply->header.request = request.read.request;
    const std::byte* data = prepare(*reply, request.read);
    if (options_.serve_rate_max > 0) {
        const double seconds =
            static_cast<double>(reply->bytes) / static_cast<double>(options_.serve_rate_max);
        const auto pause =
            std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
        rate_open_ = std::max(rate_open_, system_clock().now()) + pause;
    }
    send(kReadReplyId, std::move(reply), data);
}

const std::byte* Server::prepare(Reply& reply, const ReadRequest& read) {
    reply.served = regions_->find(read.key);
    auto refuse = [&reply](ReadStatus status) {
        reply.header.status = status;
        reply.served.reset();
        return nullptr;
    };
    if (!reply.served) return refuse(ReadStatus::access_denied);
    const auto& memory = reply.served->memory;
    if (read.offset > memory.bytes.size() || read.bytes > memory.bytes.size() - read.offset) {
        return refuse(ReadStatus::access_denied);
    }
    reply.bytes = read.bytes;
    if (!memory.fd_may_shrink || memory.fd < 0) return memory.bytes.data() + read.offset;
    // Sending from the mapping of a file that was truncated would be a SIGBUS.
    if (read.bytes > kFileReadBytesMax) return refuse(ReadStatus::access_denied);
    reply.copy.resize(read.bytes);
    copy_bytes_ += read.bytes;
    std::uint64_t done = 0;
    while (done < read.bytes) {
        const auto got = ::pread(memory.fd, reply.copy.data() + done, read.bytes - done,
                                 static_cast<::off_t>(memory.fd_offset + read.offset + done));
        if (got <= 0) {
            reply.bytes = 0;
            return refuse(ReadStatus::remote_fault);
        }
        done += static_cast<std::uint64_t>(got);
    }
    return reply.copy.data();
}

void Server::send(unsigned message_id, std::unique_ptr<Reply> owned, const std::byte* data) {
    Reply& reply = *owned;
    reply.server = this;
    reply.id = ++replies_made_;
    if (reply.served) ++reply.served->in_flight;
    replies_.emplace(reply.id, std::move(owned));
    const bool is_hello = message_id == kHelloReplyId;
    ::ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.cb.send = &sent_callback;
    param.user_data = &reply;
    const void* header = is_hello ? static_cast<const void*>(&reply.hello) : &reply.header;
    const std::size_t header_bytes = is_hello ? sizeof reply.hello : sizeof reply.header;
    void* handle = ::ucp_am_send_nbx(reply.endpoint, message_id, header, header_bytes, data,
                                     data == nullptr ? 0 : reply.bytes, &param);
    if (handle == nullptr) {
        complete(reply, UCS_OK);
    } else if (UCS_PTR_IS_ERR(handle)) {
        complete(reply, UCS_PTR_STATUS(handle));
    }
}

void Server::sent_callback(void* request, ::ucs_status_t status, void* reply) {
    auto& sent = *static_cast<Reply*>(reply);
    sent.server->complete(sent, status);
    ::ucp_request_free(request);
}

void Server::complete(Reply& reply, ::ucs_status_t status) {
    if (reply.served) --reply.served->in_flight;
    copy_bytes_ -= reply.copy.size();
    if (status == UCS_OK) {
        bytes_served_.fetch_add(reply.bytes, std::memory_order_relaxed);
    } else if (const auto found = endpoints_.find(reply.endpoint); found != endpoints_.end()) {
        found->second = true;
    }
    replies_.erase(reply.id);
}

void Server::close_broken() {
    for (auto next = endpoints_.begin(); next != endpoints_.end();) {
        const auto [endpoint, broken] = *next++;
        if (broken) drop_endpoint(endpoint);
    }
}

void Server::drop_endpoint(::ucp_ep_h endpoint) {
    endpoints_.erase(endpoint);
    std::erase_if(requests_, [endpoint](const Request& one) { return one.endpoint == endpoint; });
    ::ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    void* closing = ::ucp_ep_close_nbx(endpoint, &param);
    if (!finish_request(worker_.get(), closing, std::chrono::seconds(2))) {
        log(LogLevel::warning, "ucx does not finish closing an endpoint");
    }
    // Closed by force, the endpoint sends no more, whether or not UCX says so for each reply.
    for (auto& [id, reply] : replies_) {
        if (reply->endpoint != endpoint || !reply->served) continue;
        --reply->served->in_flight;
        reply->served.reset();
    }
}

void Server::check_removals() {
    const auto removed = regions_->removed();
    if (removed.empty()) {
        removal_end_ = {};
        return;
    }
    const TimePoint now = system_clock().now();
    if (removal_end_ == TimePoint{}) {
        removal_end_ = now + std::chrono::milliseconds(options_.progress_ms_max);
    }
    if (now >= removal_end_) {
        // Peers that are so slow lose their connection, so that the owner gets its memory back.
        for (const auto& served : removed) {
            for (auto& [id, reply] : replies_) {
                const auto endpoint = endpoints_.find(reply->endpoint);
                if (reply->served == served && endpoint != endpoints_.end()) {
                    endpoint->second = true;
                }
            }
        }
        close_broken();
        removal_end_ = {};
    }
    regions_->settle();
}

}  // namespace weightcast::transport::ucx
