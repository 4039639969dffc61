#include "transport/ucx/load_ucx.h"

#include <ucp/api/ucp.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <uct/api/uct.h>

#include "base/forward.h"

// libucp depends on the others, so that all are found in it.
// clang-format off
#define WEIGHTCAST_UCX(X) \
    X(ucp_am_recv_data_nbx, 5) \
    X(ucp_am_send_nbx, 7) \
    X(ucp_cleanup, 1) \
    X(ucp_config_read, 3) \
    X(ucp_config_release, 1) \
    X(ucp_ep_close_nbx, 2) \
    X(ucp_ep_create, 3) \
    X(ucp_get_version_string, 0) \
    X(ucp_init_version, 5) \
    X(ucp_listener_create, 3) \
    X(ucp_listener_destroy, 1) \
    X(ucp_listener_query, 2) \
    X(ucp_listener_reject, 2) \
    X(ucp_request_check_status, 1) \
    X(ucp_request_free, 1) \
    X(ucp_worker_arm, 1) \
    X(ucp_worker_create, 3) \
    X(ucp_worker_destroy, 1) \
    X(ucp_worker_get_efd, 2) \
    X(ucp_worker_progress, 1) \
    X(ucp_worker_set_am_recv_handler, 2) \
    X(ucs_debug_disable_signal, 1) \
    X(ucs_global_opts_set_value, 2) \
    X(ucs_status_string, 1) \
    X(uct_component_query, 2) \
    X(uct_config_release, 1) \
    X(uct_md_close, 1) \
    X(uct_md_config_read, 4) \
    X(uct_md_open, 4) \
    X(uct_md_query_tl_resources, 3) \
    X(uct_query_components, 2) \
    X(uct_release_component_list, 1) \
    X(uct_release_tl_resource_list, 1)
// clang-format on

WEIGHTCAST_FUNCTIONS(WEIGHTCAST_UCX)

namespace weightcast::transport::ucx {

Result<void> load() {
    static const Result<void> loaded = load_functions("libucp.so.0", &find_all);
    return loaded;
}

}  // namespace weightcast::transport::ucx
