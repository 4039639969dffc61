#include "transport/verbs/queue_pair.h"

#include <fmt/core.h>

#include <cerrno>
#include <cstring>

#include "base/random.h"

namespace weightcast::transport::verbs {
namespace {

// Only matters where something is received, and nothing is.
constexpr std::uint8_t kReceiverNotReadyTimer = 12;
constexpr std::uint8_t kHopsMax = 64;

}  // namespace

Result<QueuePair> QueuePair::create(const Rail& rail, ::ibv_cq* queue, std::uint32_t depth) {
    ::ibv_qp_init_attr attributes{};
    attributes.send_cq = queue;
    attributes.recv_cq = queue;
    attributes.cap.max_send_wr = depth;
    attributes.cap.max_recv_wr = 1;  // some drivers refuse none
    attributes.cap.max_send_sge = 1;
    attributes.cap.max_recv_sge = 1;
    attributes.qp_type = IBV_QPT_RC;
    QueuePair pair;
    pair.rail_ = &rail;
    pair.pair_.reset(::ibv_create_qp(rail.domain(), &attributes));
    if (!pair.pair_) {
        return system_error(errno,
                            fmt::format("ibv_create_qp of {} requests on {}", depth, rail.name()));
    }
    return pair;
}

Result<void> QueuePair::modify(::ibv_qp_attr& attributes, int mask, const char* step) {
    const int failure = ::ibv_modify_qp(pair_.get(), &attributes, mask);
    if (failure == 0) return success();
    return system_error(Code::io, failure,
                        fmt::format("ibv_modify_qp {} on {}", step, rail_->name()));
}

Result<void> QueuePair::to_init(const PairPath& path) {
    ::ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_INIT;
    attributes.pkey_index = path.partition_index;
    attributes.port_num = rail_->choice().port.number;
    attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ;
    return modify(attributes, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
                  "RESET to INIT");
}

Result<void> QueuePair::to_ready_to_receive(const PairPath& path) {
    ::ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_RTR;
    attributes.ah_attr = path.route;
    attributes.path_mtu = path.mtu;
    attributes.dest_qp_num = path.peer_number;
    attributes.rq_psn = path.peer_packet;
    attributes.max_dest_rd_atomic = path.serve_depth;
    attributes.min_rnr_timer = kReceiverNotReadyTimer;
    return modify(attributes,
                  IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                      IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
                  "INIT to RTR");
}

Result<void> QueuePair::to_ready_to_send(const PairPath& path) {
    ::ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_RTS;
    attributes.timeout = path.retries.ack_timeout;
    attributes.retry_cnt = path.retries.count;
    attributes.rnr_retry = kReceiverNotReadyRetries;
    attributes.sq_psn = path.own_packet;
    attributes.max_rd_atomic = path.read_depth;
    return modify(attributes,
                  IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                      IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
                  "RTR to RTS");
}

Result<void> QueuePair::to_error() {
    ::ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_ERR;
    return modify(attributes, IBV_QP_STATE, "to ERR");
}

PairAddress address_of(const QueuePair& pair, std::uint32_t packet) {
    const RailChoice& choice = pair.rail().choice();
    return {pair.number(), packet, choice.port.lid, choice.gid.bytes};
}

PairPath path_to(const Rail& rail, const PairAddress& peer, std::uint8_t traffic_class) {
    const RailChoice& choice = rail.choice();
    PairPath path;
    path.peer_number = peer.number;
    path.peer_packet = peer.packet;
    path.route.port_num = choice.port.number;
    path.route.dlid = peer.lid;
    // InfiniBand inside one subnet goes by LID alone.
    if (choice.port.link_layer != LinkLayer::infiniband || peer.lid == 0) {
        path.route.is_global = 1;
        std::memcpy(path.route.grh.dgid.raw, peer.gid.data(), peer.gid.size());
        path.route.grh.sgid_index = static_cast<std::uint8_t>(choice.gid.index);
        path.route.grh.hop_limit = kHopsMax;
        path.route.grh.traffic_class = traffic_class;
    }
    return path;
}

std::uint32_t random_packet() { return static_cast<std::uint32_t>(random_seed()) & kPairNumberMax; }

Result<void> learn_path(::rdma_cm_id* id, ::ibv_qp_state state, const Rail& rail, PairPath& path) {
    ::ibv_qp_attr attributes{};
    attributes.qp_state = state;
    int mask = 0;
    if (::rdma_init_qp_attr(id, &attributes, &mask) != 0) {
        return system_error(Code::unavailable, errno, "rdma_init_qp_attr on " + rail.name());
    }
    if (state == IBV_QPS_INIT) {
        path.partition_index = attributes.pkey_index;
    } else if (state == IBV_QPS_RTR) {
        path.route = attributes.ah_attr;
        path.mtu = attributes.path_mtu;
        path.peer_number = attributes.dest_qp_num;
        path.peer_packet = attributes.rq_psn;
        if (rail.choice().gid_fixed) {
            path.route.grh.sgid_index = static_cast<std::uint8_t>(rail.choice().gid.index);
        }
    } else {
        path.own_packet = attributes.sq_psn;
        path.read_depth = attributes.max_rd_atomic;
    }
    return success();
}

}  // namespace weightcast::transport::verbs
