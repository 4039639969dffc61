// Connecting through librdmacm: address, route, request, answer, each an event.
#include <fcntl.h>
#include <fmt/core.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "transport/verbs/connector.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::ReadStatus;

// Of the InfiniBand CM, as Linux gives them with a rejection (include/rdma/ib_cm.h).
constexpr int kRejectedNobodyListens = 8;
constexpr int kRejectedByPeer = 28;

class CmConnector final : public Connector {
  public:
    CmConnector(QueuePair& pair, const Hello& hello, const ConnectorOptions& options)
        : Connector(pair, hello), options_(options) {}

    void start(const SocketAddress& holder) {
        channel_.reset(::rdma_create_event_channel());
        if (!channel_) return fail_call("rdma_create_event_channel");
        ::fcntl(channel_->fd, F_SETFL, ::fcntl(channel_->fd, F_GETFL) | O_NONBLOCK);
        ::rdma_cm_id* id = nullptr;
        if (::rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_TCP) != 0) {
            return fail_call("rdma_create_id");
        }
        id_.reset(id);
        std::uint8_t traffic_class = options_.traffic_class;
        const Retries retries = retries_of(pair_.rail().choice());
        std::uint8_t ack_timeout = retries.ack_timeout;
        ::rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &traffic_class, 1);
        // Also for the holder's side, which takes it from the request.
        ::rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout, 1);
        SocketAddress source = *pair_.rail().choice().ip;
        SocketAddress target = holder;
        if (::rdma_resolve_addr(id, source.get(), target.get(), options_.resolve_ms_max) != 0) {
            return fail_call("rdma_resolve_addr");
        }
    }

    int fd() const override { return channel_ ? channel_->fd : -1; }

    void advance() override {
        ::rdma_cm_event* event = nullptr;
        while (channel_ && ::rdma_get_cm_event(channel_.get(), &event) == 0) {
            Event copy;
            copy.kind = event->event;
            copy.status = event->status;
            const auto& data = event->param.conn;
            const bool answered =
                copy.kind == RDMA_CM_EVENT_CONNECT_RESPONSE || copy.kind == RDMA_CM_EVENT_REJECTED;
            if (answered && data.private_data != nullptr) {
                copy.welcome = decode_welcome(
                    {static_cast<const std::byte*>(data.private_data), data.private_data_len});
            }
            ::rdma_ack_cm_event(event);
            on_event(copy);
        }
    }

  private:
    struct Event {
        ::rdma_cm_event_type kind{};
        int status = 0;
        std::optional<Welcome> welcome;
    };

    void fail_call(const char* call) {
        fail(ReadStatus::unreachable,
             system_error(errno, fmt::format("{} on {}", call, pair_.rail().name())).message);
    }

    void on_event(const Event& event) {
        if (state_ == State::failed || state_ == State::lost) return;
        switch (event.kind) {
            case RDMA_CM_EVENT_ADDR_RESOLVED:
                return on_address();
            case RDMA_CM_EVENT_ROUTE_RESOLVED:
                return on_route();
            case RDMA_CM_EVENT_CONNECT_RESPONSE:
                return on_response(event);
            case RDMA_CM_EVENT_REJECTED:
                return on_rejection(event);
            case RDMA_CM_EVENT_ESTABLISHED:
            case RDMA_CM_EVENT_TIMEWAIT_EXIT:
                return;
            case RDMA_CM_EVENT_DISCONNECTED:
                return fail(ReadStatus::unreachable, "the peer ended the connection");
            default: {
                std::string why = ::rdma_event_str(event.kind);
                if (event.status < 0) why = system_error(-event.status, std::move(why)).message;
                return fail(ReadStatus::unreachable, std::move(why));
            }
        }
    }

    void on_address() {
        const RailChoice& rail = pair_.rail().choice();
        const std::string device = ::ibv_get_device_name(id_->verbs->device);
        if (device != rail.device || id_->port_num != rail.port.number) {
            return fail(ReadStatus::unreachable,
                        fmt::format("the route starts at {}:{} and not at {}", device,
                                    id_->port_num, rail.name()));
        }
        if (::rdma_resolve_route(id_.get(), options_.resolve_ms_max) != 0) {
            fail_call("rdma_resolve_route");
        }
    }

    void on_route() {
        if (auto learnt = learn_path(id_.get(), IBV_QPS_INIT, pair_.rail(), path_); !learnt) {
            return fail(ReadStatus::unreachable, learnt.error().message);
        }
        if (auto ready = pair_.to_init(path_); !ready) {
            return fail(ReadStatus::unreachable, ready.error().message);
        }
        std::array<std::byte, kHelloBytes> hello;
        encode(hello_, hello);
        ::rdma_conn_param request{};
        request.private_data = hello.data();
        request.private_data_len = hello.size();
        request.initiator_depth = static_cast<std::uint8_t>(pair_.rail().choice().read_depth);
        request.responder_resources = 1;
        request.retry_count = retries_of(pair_.rail().choice()).count;
        request.rnr_retry_count = kReceiverNotReadyRetries;
        request.qp_num = pair_.number();
        if (::rdma_connect(id_.get(), &request) != 0) fail_call("rdma_connect");
    }

    void on_response(const Event& event) {
        if (!event.welcome) {
            return fail(ReadStatus::unreachable, "what answers there is no weightcast holder");
        }
        const auto connect = [&]() -> Result<void> {
            const Rail& rail = pair_.rail();
            WEIGHTCAST_CHECK(learn_path(id_.get(), IBV_QPS_RTR, rail, path_));
            WEIGHTCAST_CHECK(learn_path(id_.get(), IBV_QPS_RTS, rail, path_));
            if (!accept(*event.welcome)) return success();
            WEIGHTCAST_CHECK(pair_.to_ready_to_receive(path_));
            WEIGHTCAST_CHECK(pair_.to_ready_to_send(path_));
            if (::rdma_establish(id_.get()) != 0) {
                return system_error(errno, "rdma_establish on " + rail.name());
            }
            state_ = State::connected;
            return success();
        };
        if (auto connected = connect(); !connected) {
            fail(ReadStatus::unreachable, connected.error().message);
        }
    }

    void on_rejection(const Event& event) {
        if (event.status == kRejectedByPeer && event.welcome) {
            accept(*event.welcome);
            return;
        }
        fail(ReadStatus::unreachable,
             event.status == kRejectedNobodyListens
                 ? "nobody listens there"
                 : fmt::format("the connection was rejected (reason {})", event.status));
    }

    const ConnectorOptions options_;
    EventChannelHandle channel_;
    CmHandle id_;
};

}  // namespace

std::unique_ptr<Connector> connect_by_cm(QueuePair& pair, const Hello& hello,
                                         const SocketAddress& holder,
                                         const ConnectorOptions& options) {
    auto connector = std::make_unique<CmConnector>(pair, hello, options);
    connector->start(holder);
    return connector;
}

}  // namespace weightcast::transport::verbs
