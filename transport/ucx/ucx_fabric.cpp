#include "transport/ucx/ucx_fabric.h"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/random.h"
#include "fabric/keyed_region.h"
#include "transport/open.h"

namespace weightcast::transport::ucx {
namespace {

using fabric::Completion;
using fabric::LinkId;
using fabric::ReadStatus;

using UcxRegion = fabric::KeyedRegion<RegionTable, Key>;

Result<void> watch(int epoll, int fd) {
    ::epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        return system_error(errno, "cannot watch a descriptor of UCX");
    }
    return success();
}

bool is_local_range(const fabric::Read& read) {
    const auto local = read.local != nullptr ? read.local->bytes() : std::span<std::byte>();
    return read.bytes > 0 && read.local_offset <= local.size() &&
           read.bytes <= local.size() - read.local_offset;
}

}  // namespace

Result<std::unique_ptr<fabric::Fabric>> UcxFabric::open(const fabric::FabricOptions& options) {
    std::unique_ptr<UcxFabric> fabric(new UcxFabric(options));
    WEIGHTCAST_CHECK(fabric->start());
    return std::unique_ptr<fabric::Fabric>(std::move(fabric));
}

Result<void> UcxFabric::start() {
    WEIGHTCAST_TRY(context_, make_context());
    WEIGHTCAST_TRY(server_, Server::start(context_.get(), options_));
    WEIGHTCAST_TRY(worker_, make_worker(context_.get()));
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wake_) return system_error(errno, "cannot create the descriptors of ucx");
    int worker_fd = -1;
    if (const auto status = ::ucp_worker_get_efd(worker_.get(), &worker_fd); status != UCS_OK) {
        return ucx_error(Code::io, status, "ucp_worker_get_efd");
    }
    WEIGHTCAST_CHECK(watch(epoll_.get(), worker_fd));
    WEIGHTCAST_CHECK(watch(epoll_.get(), wake_.get()));
    return set_handlers();
}

Result<void> UcxFabric::set_handlers() {
    for (const unsigned id : {kHelloReplyId, kReadReplyId}) {
        ::ucp_am_handler_param_t handler{};
        handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                             UCP_AM_HANDLER_PARAM_FIELD_ARG;
        handler.id = id;
        handler.cb = id == kHelloReplyId ? &hello_callback : &reply_callback;
        handler.arg = this;
        if (const auto status = ::ucp_worker_set_am_recv_handler(worker_.get(), &handler);
            status != UCS_OK) {
            return ucx_error(Code::io, status, "ucp_worker_set_am_recv_handler");
        }
    }
    return success();
}

UcxFabric::~UcxFabric() {
    for (auto& [id, link] : links_) close(*link, ReadStatus::cancelled);
}

bool UcxFabric::can_reach(const std::string& address) const {
    return parse_address(address).has_value();
}

Result<std::unique_ptr<fabric::Region>> UcxFabric::register_memory(const fabric::Memory& memory,
                                                                   fabric::Access access) {
    WEIGHTCAST_CHECK(fabric::check_memory(name(), memory));
    if (access == fabric::Access::local) {
        return std::unique_ptr<fabric::Region>(std::make_unique<UcxRegion>(memory.bytes));
    }
    const Key key = server_->regions()->add(memory);
    return std::unique_ptr<fabric::Region>(
        std::make_unique<UcxRegion>(memory.bytes, key, server_->regions()));
}

LinkId UcxFabric::connect(const fabric::PeerAddress& peer) {
    auto owned = std::make_unique<Link>();
    Link& link = *owned;
    link.id = LinkId(++links_made_);
    link.fabric = this;
    link.cookie = random_seed();
    link.peer = peer;
    link.progress = system_clock().now();
    links_.emplace(link.id, std::move(owned));
    cookies_.emplace(link.cookie, &link);
    if (open_endpoint(link)) {
        link.hello.link = link.cookie;
        link.hello.incarnation = options_.incarnation;
        ::ucp_request_param_t param{};
        param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK;
        param.flags = UCP_AM_SEND_FLAG_REPLY;
        param.cb.send = [](void* request, ::ucs_status_t, void*) { ::ucp_request_free(request); };
        // The header outlives the request: it is closed before its link goes.
        void* sent = ::ucp_am_send_nbx(link.endpoint, kHelloId, &link.hello, sizeof link.hello,
                                       nullptr, 0, &param);
        if (UCS_PTR_IS_ERR(sent)) {
            fail(link, ReadStatus::unreachable,
                 ucx_error(Code::unavailable, UCS_PTR_STATUS(sent), "cannot greet").message);
        }
    }
    wake();
    return link.id;
}

bool UcxFabric::open_endpoint(Link& link) {
    const auto at = parse_address(link.peer.address);
    if (!at) {
        fail(link, ReadStatus::unreachable, link.peer.address + " is not an address of ucx");
        return false;
    }
    ::ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                        UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    params.sockaddr = {reinterpret_cast<const ::sockaddr*>(&at->storage), at->bytes};
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = [](void* failed, ::ucp_ep_h, ::ucs_status_t status) {
        Link& broken = *static_cast<Link*>(failed);
        broken.fabric->fail(broken, ReadStatus::unreachable,
                            ucx_error(Code::unavailable, status, broken.peer.address).message);
    };
    params.err_handler.arg = &link;
    const auto status = ::ucp_ep_create(worker_.get(), &params, &link.endpoint);
    if (status == UCS_OK) return true;
    link.endpoint = nullptr;
    fail(link, ReadStatus::unreachable,
         ucx_error(Code::unavailable, status, "cannot connect to " + link.peer.address).message);
    return false;
}

// May be called from within UCX: what closes the endpoint comes later, in check_links().
void UcxFabric::fail(Link& link, ReadStatus status, std::string error) {
    if (link.state == State::failed) return;
    link.state = State::failed;
    link.status = status;
    link.error = std::move(error);
    link.must_close = true;
    wake();
}

void UcxFabric::close(Link& link, ReadStatus status) {
    link.must_close = false;
    if (link.endpoint != nullptr) {
        ::ucp_request_param_t param{};
        param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
        param.flags = UCP_EP_CLOSE_FLAG_FORCE;
        void* closing = ::ucp_ep_close_nbx(std::exchange(link.endpoint, nullptr), &param);
        if (!finish_request(worker_.get(), closing, std::chrono::seconds(2))) {
            log(LogLevel::warning, "ucx does not finish closing an endpoint");
        }
    }
    for (const auto& read : std::exchange(link.waiting, {})) done_.push_back({read.tag, status});
    // The endpoint is closed, so that nothing is written to their destinations any more.
    for (auto next = pending_.begin(); next != pending_.end();) {
        Pending& pending = *(next++)->second;
        if (pending.link == &link) finish(pending, status);
    }
}

void UcxFabric::disconnect(LinkId id) {
    const auto found = links_.find(id);
    if (found == links_.end()) return;
    // Reads that UCX still completes while it closes the endpoint are cancelled too.
    found->second->state = State::failed;
    found->second->status = ReadStatus::cancelled;
    close(*found->second, ReadStatus::cancelled);
    cookies_.erase(found->second->cookie);
    links_.erase(found);
    wake();
}

std::string UcxFabric::link_error(LinkId id) const {
    const auto found = links_.find(id);
    return found == links_.end() ? std::string() : found->second->error;
}

void UcxFabric::submit(std::span<const fabric::Read> reads) {
    for (const auto& read : reads) {
        const auto link = links_.find(read.link);
        if (link == links_.end()) {
            done_.push_back({read.tag, ReadStatus::unreachable});
        } else if (read.key.size() != sizeof(Key) || !is_local_range(read)) {
            done_.push_back({read.tag, ReadStatus::access_denied});
        } else if (link->second->state == State::failed && !link->second->must_close) {
            done_.push_back({read.tag, link->second->status});
        } else if (link->second->state == State::up) {
            send_request(*link->second, read);
        } else {
            link->second->waiting.push_back(read);
        }
    }
    wake();
}

void UcxFabric::send_request(Link& link, const fabric::Read& read) {
    if (link.outstanding++ == 0) link.progress = system_clock().now();
    auto owned = std::make_unique<Pending>();
    Pending& pending = *owned;
    pending.fabric = this;
    pending.link = &link;
    pending.read = read;
    pending.request = {link.cookie, ++requests_made_, {}, read.remote_offset, read.bytes};
    std::copy(read.key.begin(), read.key.end(), pending.request.key.begin());
    pending_.emplace(pending.request.request, std::move(owned));
    ::ucp_request_param_t param{};
    param.op_attr_mask =
        UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.flags = UCP_AM_SEND_FLAG_REPLY;
    param.cb.send = &sent_callback;
    param.user_data = &pending;
    void* sent = ::ucp_am_send_nbx(link.endpoint, kReadId, &pending.request, sizeof pending.request,
                                   nullptr, 0, &param);
    pending.is_sending = sent != nullptr && !UCS_PTR_IS_ERR(sent);
    if (UCS_PTR_IS_ERR(sent)) finish(pending, ReadStatus::unreachable);
}

void UcxFabric::sent_callback(void* request, ::ucs_status_t, void* user) {
    auto& pending = *static_cast<Pending*>(user);
    pending.is_sending = false;
    ::ucp_request_free(request);
    pending.fabric->release(pending);
}

void UcxFabric::received_callback(void* request, ::ucs_status_t status, std::size_t, void* user) {
    auto& pending = *static_cast<Pending*>(user);
    pending.is_receiving = false;
    ::ucp_request_free(request);
    pending.fabric->finish(pending, status == UCS_OK ? ReadStatus::ok : ReadStatus::unreachable);
}

void UcxFabric::finish(Pending& pending, ReadStatus status) {
    if (pending.link != nullptr) {
        if (pending.link->state == State::failed) status = pending.link->status;
        --pending.link->outstanding;
        pending.link->progress = system_clock().now();
        pending.link = nullptr;
        done_.push_back({pending.read.tag, status});
    }
    release(pending);
}

void UcxFabric::release(Pending& pending) {
    if (pending.link != nullptr || pending.is_sending || pending.is_receiving) return;
    pending_.erase(pending.request.request);
}

UcxFabric::Link* UcxFabric::find_cookie(std::uint64_t cookie) {
    const auto found = cookies_.find(cookie);
    return found == cookies_.end() ? nullptr : found->second;
}

::ucs_status_t UcxFabric::hello_callback(void* self, const void* header, std::size_t header_bytes,
                                         void*, std::size_t, const ::ucp_am_recv_param_t*) {
    Hello reply;
    if (header_bytes != sizeof reply) return UCS_OK;
    std::memcpy(&reply, header, sizeof reply);
    static_cast<UcxFabric*>(self)->on_hello(reply);
    return UCS_OK;
}

void UcxFabric::on_hello(const Hello& reply) {
    Link* link = find_cookie(reply.link);
    if (link == nullptr || link->state != State::greeting) return;
    link->progress = system_clock().now();
    if (reply.magic != kMagic || reply.incarnation != link->peer.incarnation) {
        fail(*link, ReadStatus::stale_peer, "another incarnation answers at " + link->peer.address);
        return;
    }
    link->state = State::up;
    wake();
}

::ucs_status_t UcxFabric::reply_callback(void* self, const void* header, std::size_t header_bytes,
                                         void* data, std::size_t bytes,
                                         const ::ucp_am_recv_param_t* param) {
    ReadReply reply;
    if (header_bytes != sizeof reply) return UCS_OK;
    std::memcpy(&reply, header, sizeof reply);
    return static_cast<UcxFabric*>(self)->on_reply(reply, data, bytes, param);
}

::ucs_status_t UcxFabric::on_reply(const ReadReply& reply, void* data, std::size_t bytes,
                                   const ::ucp_am_recv_param_t* param) {
    const auto found = pending_.find(reply.request);
    if (found == pending_.end()) return UCS_OK;
    Pending& pending = *found->second;
    if (pending.link == nullptr || pending.link->cookie != reply.link || pending.is_answered) {
        return UCS_OK;
    }
    pending.is_answered = true;
    if (reply.status != ReadStatus::ok) {
        const bool is_known = reply.status == ReadStatus::access_denied;
        finish(pending, is_known ? ReadStatus::access_denied : ReadStatus::remote_fault);
        return UCS_OK;
    }
    if (bytes != pending.read.bytes) {
        fail(*pending.link, ReadStatus::unreachable, "the holder sent another length");
        return UCS_OK;
    }
    std::byte* to = pending.read.local->bytes().data() + pending.read.local_offset;
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
        std::memcpy(to, data, bytes);
        finish(pending, ReadStatus::ok);
        return UCS_OK;
    }
    ::ucp_request_param_t receive{};
    receive.op_attr_mask =
        UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
    receive.cb.recv_am = &received_callback;
    receive.user_data = &pending;
    pending.is_receiving = true;
    void* started = ::ucp_am_recv_data_nbx(worker_.get(), data, to, bytes, &receive);
    if (UCS_PTR_IS_ERR(started)) {
        pending.is_receiving = false;
        finish(pending, ReadStatus::unreachable);
    }
    return UCS_INPROGRESS;
}

void UcxFabric::check_links() {
    const TimePoint now = system_clock().now();
    const auto patience = std::chrono::milliseconds(options_.progress_ms_max);
    for (auto& [id, link] : links_) {
        const bool is_waiting = link->state == State::greeting || link->outstanding > 0;
        if (link->state != State::failed && is_waiting && now - link->progress >= patience) {
            fail(*link, ReadStatus::timed_out,
                 fmt::format("{} made no progress for {} ms", link->peer.address,
                             options_.progress_ms_max));
        }
        if (link->state == State::up) {
            for (const auto& read : std::exchange(link->waiting, {})) send_request(*link, read);
        }
        if (link->must_close) close(*link, link->status);
    }
}

std::size_t UcxFabric::poll(std::span<Completion> completions) {
    for (int i = 0; i < 64 && done_.size() < completions.size(); ++i) {
        if (::ucp_worker_progress(worker_.get()) == 0) break;
    }
    check_links();
    const std::size_t count = std::min(completions.size(), done_.size());
    const auto end = done_.begin() + static_cast<std::ptrdiff_t>(count);
    std::copy(done_.begin(), end, completions.begin());
    done_.erase(done_.begin(), end);
    // Arming tells whether UCX itself has more to do; only then may the caller sleep.
    const bool has_more = !done_.empty() || ::ucp_worker_arm(worker_.get()) == UCS_ERR_BUSY;
    if (has_more) {
        wake();
    } else if (is_awake_) {
        ::eventfd_t ignored = 0;
        ::eventfd_read(wake_.get(), &ignored);
        is_awake_ = false;
    }
    return count;
}

void UcxFabric::wake() {
    if (is_awake_) return;
    ::eventfd_write(wake_.get(), 1);
    is_awake_ = true;
}

int UcxFabric::wait_ms() const {
    TimePoint earliest = TimePoint::max();
    for (const auto& [id, link] : links_) {
        const bool is_waiting = link->state == State::greeting || link->outstanding > 0;
        if (link->state == State::failed || !is_waiting) continue;
        earliest = std::min(earliest, link->progress);
    }
    if (earliest == TimePoint::max()) return -1;
    const auto left =
        earliest + std::chrono::milliseconds(options_.progress_ms_max) - system_clock().now();
    const auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    return static_cast<int>(std::max<std::int64_t>(left_ms, 0));
}

}  // namespace weightcast::transport::ucx

namespace weightcast::transport {

Result<std::unique_ptr<fabric::Fabric>> open_ucx(const fabric::FabricOptions& options) {
    return ucx::UcxFabric::open(options);
}

}  // namespace weightcast::transport
