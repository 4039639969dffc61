// Readers that connect through librdmacm.
#include <fmt/core.h>

#include <array>
#include <bit>
#include <cerrno>

#include "base/log.h"
#include "transport/verbs/acceptor.h"

namespace weightcast::transport::verbs {

void Acceptor::on_cm_events() {
    ::rdma_cm_event* event = nullptr;
    while (::rdma_get_cm_event(channel_.get(), &event) == 0) {
        // What is needed of the event is copied: no id may be destroyed before its event is
        // acknowledged.
        const ::rdma_cm_event_type kind = event->event;
        const auto name = reinterpret_cast<ConnectionId>(event->id->context);
        if (kind != RDMA_CM_EVENT_CONNECT_REQUEST) {
            ::rdma_ack_cm_event(event);
            // A listener's name is no connection's.
            if (kind != RDMA_CM_EVENT_ESTABLISHED) drop(name);
            continue;
        }
        CmHandle id(event->id);
        const auto rail = static_cast<std::size_t>(
            reinterpret_cast<ConnectionId>(event->listen_id->context) - kListeners);
        const auto& data = event->param.conn;
        std::optional<Hello> hello;
        if (data.private_data != nullptr) {
            hello = decode_hello(
                {static_cast<const std::byte*>(data.private_data), data.private_data_len});
        }
        // The kernel has turned it round: what the reader initiates is what we respond to.
        const std::uint8_t read_depth = data.responder_resources;
        ::rdma_ack_cm_event(event);
        on_connect_request(std::move(id), rail, hello, read_depth);
    }
}

void Acceptor::on_connect_request(CmHandle id, std::size_t rail, std::optional<Hello> hello,
                                  std::uint8_t read_depth) {
    std::array<std::byte, kWelcomeBytes> answer;
    Request request{rail, hello.value_or(Hello{}), read_depth};
    const auto reject = [&](Verdict verdict) {
        encode(welcome(verdict, request), answer);
        ::rdma_reject(id.get(), answer.data(), answer.size());
    };
    if (!hello) return reject(Verdict::wrong_protocol);
    if (const Verdict verdict = judge(*hello, rail); verdict != Verdict::accepted) {
        return reject(verdict);
    }
    PairPath path;
    const auto make = [&]() -> Result<QueuePair> {
        const Rail& at = *(*rails_)[rail];
        WEIGHTCAST_CHECK(learn_path(id.get(), IBV_QPS_INIT, at, path));
        WEIGHTCAST_CHECK(learn_path(id.get(), IBV_QPS_RTR, at, path));
        WEIGHTCAST_CHECK(learn_path(id.get(), IBV_QPS_RTS, at, path));
        return make_pair(request, path);
    };
    auto pair = make();
    if (!pair) {
        log(LogLevel::info, "verbs: a reader is refused: {}", pair.error().message);
        return reject(Verdict::failed);
    }
    const Welcome accepted = welcome(Verdict::accepted, request);
    encode(accepted, answer);
    ::rdma_conn_param parameters{};
    parameters.private_data = answer.data();
    parameters.private_data_len = answer.size();
    parameters.responder_resources = accepted.serve_depth;
    parameters.initiator_depth = 1;
    parameters.rnr_retry_count = kReceiverNotReadyRetries;
    parameters.qp_num = pair.value().number();
    const ConnectionId name = next_name_++;
    id->context = std::bit_cast<void*>(name);
    if (::rdma_accept(id.get(), &parameters) != 0) {
        log(LogLevel::info, "verbs: a reader is refused: {}",
            system_error(errno, "rdma_accept").message);
        return;
    }
    Connection& connection = connections_[name];
    connection.id = std::move(id);
    connection.pair = std::move(pair).value();
    keep(name, connection, *hello);
}

}  // namespace weightcast::transport::verbs
