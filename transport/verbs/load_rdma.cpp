#include "transport/verbs/load_rdma.h"

#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "base/forward.h"

// Headers have macros of these names, which call functions of the names.
#undef ibv_query_port
#undef ibv_reg_mr

// librdmacm depends on libibverbs, so that all are found in it.
// clang-format off
#define WEIGHTCAST_RDMA(X) \
    X(_ibv_query_gid_table, 5) \
    X(ibv_ack_async_event, 1) \
    X(ibv_ack_cq_events, 2) \
    X(ibv_alloc_pd, 1) \
    X(ibv_close_device, 1) \
    X(ibv_create_comp_channel, 1) \
    X(ibv_create_cq, 5) \
    X(ibv_create_qp, 2) \
    X(ibv_dealloc_pd, 1) \
    X(ibv_dereg_mr, 1) \
    X(ibv_destroy_comp_channel, 1) \
    X(ibv_destroy_cq, 1) \
    X(ibv_destroy_qp, 1) \
    X(ibv_event_type_str, 1) \
    X(ibv_fork_init, 0) \
    X(ibv_free_device_list, 1) \
    X(ibv_get_async_event, 2) \
    X(ibv_get_cq_event, 3) \
    X(ibv_get_device_list, 1) \
    X(ibv_get_device_name, 1) \
    X(ibv_is_fork_initialized, 0) \
    X(ibv_modify_qp, 3) \
    X(ibv_open_device, 1) \
    X(ibv_query_device, 2) \
    X(ibv_query_port, 3) \
    X(ibv_reg_dmabuf_mr, 6) \
    X(ibv_reg_mr, 4) \
    X(ibv_reg_mr_iova2, 5) \
    X(ibv_wc_status_str, 1) \
    X(rdma_accept, 2) \
    X(rdma_ack_cm_event, 1) \
    X(rdma_bind_addr, 2) \
    X(rdma_connect, 2) \
    X(rdma_create_event_channel, 0) \
    X(rdma_create_id, 4) \
    X(rdma_destroy_event_channel, 1) \
    X(rdma_destroy_id, 1) \
    X(rdma_establish, 1) \
    X(rdma_event_str, 1) \
    X(rdma_get_cm_event, 2) \
    X(rdma_get_src_port, 1) \
    X(rdma_init_qp_attr, 3) \
    X(rdma_listen, 2) \
    X(rdma_reject, 3) \
    X(rdma_resolve_addr, 4) \
    X(rdma_resolve_route, 2) \
    X(rdma_set_option, 5)
// clang-format on

WEIGHTCAST_FUNCTIONS(WEIGHTCAST_RDMA)

namespace weightcast::transport::verbs {
namespace {

template <typename Function>
std::string file_of(Function* function) {
    ::Dl_info info{};
    const bool known = ::dladdr(reinterpret_cast<void*>(function), &info) != 0;
    return known && info.dli_fname != nullptr ? info.dli_fname : "";
}

}  // namespace

Result<void> load_rdma() {
    static const Result<void> loaded = load_functions("librdmacm.so.1", &find_all);
    return loaded;
}

RdmaFiles rdma_files() {
    return {file_of(found_ibv_alloc_pd), file_of(found_rdma_create_event_channel)};
}

}  // namespace weightcast::transport::verbs
