// Goal: no line of a peer breaks the doctor, and what it takes from one is bounded and is written
// the same for ever after. The first byte of an input chooses the message.
#include <string_view>

#include "base/assert.h"
#include "tests/kit/fuzz.h"
#include "transport/doctor/peer_wire.h"

namespace {

using namespace weightcast;
using namespace weightcast::transport::doctor;

template <typename Decode>
void read(std::string_view line, Decode&& decode) {
    const auto message = decode(line);
    if (!message) {
        const Error& error = message.error();
        WEIGHTCAST_ASSERT(error.code == Code::invalid_input || error.code == Code::refused);
        return;
    }
    const std::string written = encode(message.value());
    WEIGHTCAST_ASSERT(written.find('\n') == std::string::npos);
    const auto again = decode(written);
    WEIGHTCAST_ASSERT(again.has_value());
    WEIGHTCAST_ASSERT(encode(again.value()).size() <= 2 * kLineBytesMax);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    Offer offer;
    offer.seed = 5;
    offer.fabrics = {{"tcp", "tcp://10.0.0.1:7", {std::byte{1}}, ""}, {"verbs", "", {}, "no"}};
    return {'\0' + encode(offer), '\1' + encode({{"tcp", "", 1.5e9, 20.25}, {"verbs", "no"}}),
            '\0' + encode_refusal("go away"), '\1' + encode_refusal("go away")};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view line(reinterpret_cast<const char*>(data) + 1, size - 1);
    if (data[0] % 2 == 0) {
        read(line, decode_offer);
    } else {
        read(line, decode_reports);
    }
    return 0;
}
