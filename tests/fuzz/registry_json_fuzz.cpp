// Goal: no text breaks the readers of the registry's messages, and what is read is written the
// same for ever after. The first byte of an input chooses the message.
#include <array>
#include <string_view>

#include "base/assert.h"
#include "registry/json.h"
#include "registry/validate.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast;
using namespace weightcast::registry;

template <typename Message>
void read(std::string_view text) {
    const auto message = decode<Message>(text);
    if (!message) {
        WEIGHTCAST_ASSERT(message.error().code == Code::invalid_input);
        return;
    }
    if constexpr (requires { check(message.value()); }) {
        const auto checked = check(message.value());
        WEIGHTCAST_ASSERT(checked || checked.error().code == Code::invalid_input);
    }
    const std::string written = encode(message.value());
    const auto again = decode<Message>(written);
    WEIGHTCAST_ASSERT(again.has_value());
    WEIGHTCAST_ASSERT(encode(again.value()) == written);
}

void read_error(std::string_view text) {
    const Error error = decode_error(text, Code::io);
    // The text itself may be no UTF-8; a message that was read from JSON is.
    const Error again = decode_error(encode_error(error), Code::io);
    WEIGHTCAST_ASSERT(again.code == error.code || again.code == Code::io);
}

constexpr std::array kReaders{read_error,         read<PeerInfo>,       read<Heartbeat>,
                              read<HoldRequest>,  read<DropRequest>,    read<PublishRequest>,
                              read<PullRequest>,  read<RenewRequest>,   read<CloseRequest>,
                              read<HolderReport>, read<Grant>,          read<SetChannelRequest>,
                              read<ModelList>,    read<PeerList>,       read<PublishReply>,
                              read<BucketQuery>,  read<HeartbeatReply>, read<Event>};

template <typename Message>
std::string seed(std::size_t reader, const Message& message) {
    return static_cast<char>(reader) + encode(message);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    PeerInfo peer;
    peer.name = "a";
    peer.host = "h";
    peer.addresses["tcp"] = "10.0.0.1:7";
    peer.labels["rack"] = "\"r\"\n";
    Holding holding;
    holding.model = "m";
    holding.buckets = "ff03";
    holding.extents = {{0, 10, 0, 5}, {10, ~0ULL - 20, 0, 0}};
    holding.keys["tcp"] = {{{std::byte{1}}}, {std::byte{2}}, {std::byte{3}}};
    Grant grant;
    grant.holders.push_back({.name = "b", .holding = holding});
    ModelInfo model{"m", {VersionInfo{}}, {ChannelInfo{}}};
    return {seed(1, peer),
            seed(2, Heartbeat{{1, 2}, {{"m", 1, true, 5, "01"}}}),
            seed(3, HoldRequest{{1, 2}, holding}),
            seed(5, PublishRequest{}),
            seed(6, PullRequest{{1, 2}, "m", ":stable", 4}),
            seed(7, RenewRequest{{1, 2}, 3, {4, 5, ~0ULL}, 16}),
            seed(8, CloseRequest{{1, 2}, 3, true, 4, 0.5, 1.25}),
            seed(9, HolderReport{}),
            seed(10, grant),
            seed(11, SetChannelRequest{"m", "c", 1, 0, "who", "why"}),
            seed(12, ModelList{{model}}),
            seed(13, PeerList{{PeerSummary{}}}),
            seed(17, Event{.model = "m", .channel = "c", .generation = 3, .detail = "why"}),
            std::string(1, '\0') + encode_error({Code::stale, 0, "gone"})};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    kReaders[data[0] % kReaders.size()](text);
    return 0;
}
