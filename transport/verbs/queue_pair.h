// A reliable connected queue pair, and the ways from one of its states to the next.
#pragma once

#include <cstdint>
#include <string>

#include "transport/verbs/handles.h"
#include "transport/verbs/rail.h"
#include "transport/verbs/wire.h"

namespace weightcast::transport::verbs {

// How long a peer may take to answer: (count + 1) * 4.096 us * 2^ack_timeout until it is given up.
struct Retries {
    std::uint8_t ack_timeout = 0;
    std::uint8_t count = 0;  // seven is without end for some drivers
};
// 0.47 s with hardware. A software device answers when its host's processors have time for it, and
// rdma_rxe of Linux 6.1 breaks a queue pair that asks again too early: 0.8 s.
inline constexpr Retries kHardwareRetries{14, 6};
inline constexpr Retries kSoftwareRetries{16, 2};
// For a holder that asks whether a reader is there: 7.5 s, since nobody waits for it.
inline constexpr Retries kProbeRetries{18, 6};
inline Retries retries_of(const RailChoice& choice) {
    return choice.software ? kSoftwareRetries : kHardwareRetries;
}
inline constexpr std::uint8_t kReceiverNotReadyRetries = 3;

// All that connecting to a peer's queue pair takes.
struct PairPath {
    ::ibv_ah_attr route{};
    std::uint16_t partition_index = 0;
    ::ibv_mtu mtu = IBV_MTU_1024;
    std::uint32_t peer_number = 0;
    std::uint32_t peer_packet = 0;  // the first that the peer sends
    std::uint32_t own_packet = 0;   // the first that we send
    std::uint8_t read_depth = 1;    // READs that we have outstanding at a time
    std::uint8_t serve_depth = 1;   // READs of the peer that we answer at a time
    Retries retries = kHardwareRetries;
};

class QueuePair {
  public:
    QueuePair() = default;
    // `depth` work requests. The queue is for both directions; nothing is ever received.
    // Errors: no_space (the device has no more), io.
    static Result<QueuePair> create(const Rail& rail, ::ibv_cq* queue, std::uint32_t depth);

    explicit operator bool() const { return pair_ != nullptr; }
    std::uint32_t number() const { return pair_->qp_num; }
    ::ibv_qp* get() const { return pair_.get(); }
    const Rail& rail() const { return *rail_; }
    void reset() { pair_.reset(); }

    // Each names the call and the device in its error. Peers may READ from RTR on.
    Result<void> to_init(const PairPath& path);              // from RESET
    Result<void> to_ready_to_receive(const PairPath& path);  // from INIT
    Result<void> to_ready_to_send(const PairPath& path);     // from RTR
    Result<void> to_error();                                 // from any

  private:
    Result<void> modify(::ibv_qp_attr& attributes, int mask, const char* step);

    const Rail* rail_ = nullptr;
    PairHandle pair_;
};

// What the other side needs to reach the pair, and the path to a pair that it said so of.
PairAddress address_of(const QueuePair& pair, std::uint32_t packet);
PairPath path_to(const Rail& rail, const PairAddress& peer, std::uint8_t traffic_class);

// A first packet number that an earlier connection's packets do not have.
std::uint32_t random_packet();

// The path that librdmacm has found, as far as it is known in the connection's present state:
// IBV_QPS_INIT, IBV_QPS_RTR or IBV_QPS_RTS. Errors: unavailable, naming the call.
Result<void> learn_path(::rdma_cm_id* id, ::ibv_qp_state state, const Rail& rail, PairPath& path);

}  // namespace weightcast::transport::verbs
