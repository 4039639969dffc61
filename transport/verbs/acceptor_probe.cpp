// Readers that ended tell so, or their kernel does. One whose host has lost its power or its cable
// says nothing, and its queue pair would stay for ever: so each is asked now and then, by a READ of
// a few bytes that it offers for that. (A READ of no bytes needs no key, but rdma_rxe of Linux 6.1
// takes one that it sees twice for a violation, and ends the reader's queue pair.)
#include <array>

#include "base/log.h"
#include "transport/verbs/acceptor.h"

namespace weightcast::transport::verbs {
namespace {

constexpr std::uint32_t kProbeBytes = 8;

}  // namespace

void Acceptor::probe_all() {
    for (const QueueHandle& queue : queues_) ::ibv_req_notify_cq(queue.get(), 0);
    for (auto& [name, connection] : connections_) {
        // Out of band the end of the TCP connection tells.
        if (!connection.id || !connection.pair || connection.probed) continue;
        ::ibv_sge landing{Rail::kProbeLanding, kProbeBytes,
                          connection.pair.rail().probe_local_key()};
        ::ibv_send_wr probe{};
        probe.wr_id = name;
        probe.sg_list = &landing;
        probe.num_sge = 1;
        probe.wr.rdma.rkey = connection.probe_key;
        probe.opcode = IBV_WR_RDMA_READ;
        probe.send_flags = IBV_SEND_SIGNALED;
        ::ibv_send_wr* refused = nullptr;
        connection.probed = ::ibv_post_send(connection.pair.get(), &probe, &refused) == 0;
    }
}

void Acceptor::on_probes(std::size_t rail) {
    ::ibv_cq* queue = nullptr;
    void* context = nullptr;
    while (::ibv_get_cq_event(channels_[rail].get(), &queue, &context) == 0) {
        ::ibv_ack_cq_events(queue, 1);
    }
    ::ibv_req_notify_cq(queues_[rail].get(), 0);
    std::array<::ibv_wc, 16> completions;
    for (int count = 1; count > 0;) {
        count = ::ibv_poll_cq(queues_[rail].get(), completions.size(), completions.data());
        for (int i = 0; i < count; ++i) {
            const ::ibv_wc& completion = completions[static_cast<std::size_t>(i)];
            const auto found = connections_.find(completion.wr_id);
            if (found == connections_.end()) continue;
            found->second.probed = false;
            if (completion.status == IBV_WC_SUCCESS) continue;
            log(LogLevel::info, "verbs: a reader is gone: {}",
                ::ibv_wc_status_str(completion.status));
            drop(completion.wr_id);
        }
    }
}

}  // namespace weightcast::transport::verbs
