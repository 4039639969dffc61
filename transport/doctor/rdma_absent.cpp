#include "transport/doctor/facts.h"

namespace weightcast::transport::doctor {

RdmaFacts gather_rdma() {
    RdmaFacts facts;
    facts.built_in = false;
    return facts;
}

CudaFacts gather_cuda() { return {}; }

}  // namespace weightcast::transport::doctor
