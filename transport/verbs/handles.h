// Owners of the handles of libibverbs and librdmacm.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>

#include "base/freer.h"

namespace weightcast::transport::verbs {

using ContextHandle = std::unique_ptr<::ibv_context, Freer<::ibv_close_device>>;
using DomainHandle = std::unique_ptr<::ibv_pd, Freer<::ibv_dealloc_pd>>;
using ChannelHandle = std::unique_ptr<::ibv_comp_channel, Freer<::ibv_destroy_comp_channel>>;
using QueueHandle = std::unique_ptr<::ibv_cq, Freer<::ibv_destroy_cq>>;
using PairHandle = std::unique_ptr<::ibv_qp, Freer<::ibv_destroy_qp>>;
using RegionHandle = std::unique_ptr<::ibv_mr, Freer<::ibv_dereg_mr>>;
using EventChannelHandle =
    std::unique_ptr<::rdma_event_channel, Freer<::rdma_destroy_event_channel>>;
using CmHandle = std::unique_ptr<::rdma_cm_id, Freer<::rdma_destroy_id>>;

}  // namespace weightcast::transport::verbs
