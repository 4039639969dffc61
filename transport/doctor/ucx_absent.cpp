#include "transport/doctor/facts.h"

namespace weightcast::transport::doctor {

UcxFacts gather_ucx() {
    UcxFacts facts;
    facts.built_in = false;
    return facts;
}

}  // namespace weightcast::transport::doctor
