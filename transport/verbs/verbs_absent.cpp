#include "fabric/fabric.h"
#include "transport/open.h"

namespace weightcast::transport {

Result<std::unique_ptr<fabric::Fabric>> open_verbs(const fabric::FabricOptions&) {
    return Error{Code::unavailable, 0, "this program was built without rdma-core"};
}

}  // namespace weightcast::transport
