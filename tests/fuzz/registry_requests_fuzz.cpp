// Goal: no sequence of requests breaks the registry. An input is a list of requests, one a line:
// METHOD, a space, the target, a space, the body.
#include <string>
#include <string_view>

#include "base/assert.h"
#include "registry/router.h"
#include "registry/service.h"
#include "tests/kit/fuzz.h"

namespace {

using namespace weightcast;
using namespace weightcast::registry;

constexpr std::size_t kRequestsMax = 64;

// Moves on with every look, so that leases end in the middle.
class SteppingClock final : public Clock {
  public:
    TimePoint now() const override { return now_ += std::chrono::milliseconds(7); }
    std::uint64_t wall_ms() const override { return 1; }

  private:
    mutable TimePoint now_{};
};

std::string_view take(std::string_view& text, char end) {
    const auto at = std::min(text.find(end), text.size());
    const std::string_view taken = text.substr(0, at);
    text.remove_prefix(std::min(at + 1, text.size()));
    return taken;
}

// Ids that the registry gives out with the seed 1, found by asking it once.
struct Known {
    std::string first;
    std::string second;
};

std::string join(const std::string& name) {
    return R"(POST /v1/peers {"name":")" + name +
           R"(","host":"h","incarnation":"00000000000000000000000000000001","protocol":)" +
           std::to_string(kProtocolVersion) + "}\n";
}

std::unique_ptr<Service> make_service(const Clock& clock) {
    StateOptions options;
    options.lease_ms = 300;
    options.grace_ms = 50;
    options.peers_max = 8;
    return std::move(Service::create(options, make_memory_store(), clock, "boot", 1)).value();
}

std::string peer_of(std::string_view reply) {
    const auto at = reply.find("{\"id\":");
    return std::string(reply.substr(at, reply.find('}', at) - at + 1));
}

Known known() {
    const SteppingClock clock;
    const auto service = make_service(clock);
    Metrics metrics;
    Router router(*service, metrics);
    const auto ask = [&router](const std::string& name) {
        const std::string line = join(name);
        return peer_of(router.handle("POST", "/v1/peers", line.substr(line.find('{'))).body);
    };
    return {ask("a"), ask("b")};
}

// Gives how many requests succeeded.
std::size_t play(std::string_view input) {
    const SteppingClock clock;
    const auto service = make_service(clock);
    Metrics metrics;
    Router router(*service, metrics);
    std::size_t succeeded = 0;
    for (std::size_t i = 0; i < kRequestsMax && !input.empty(); ++i) {
        std::string_view body = take(input, '\n');
        const std::string_view method = take(body, ' ');
        const std::string_view target = take(body, ' ');
        const Reply reply = router.handle(method, target, body);
        WEIGHTCAST_ASSERT(reply.status == 200 || reply.body.starts_with("{\"error\":"));
        WEIGHTCAST_ASSERT(reply.status != 500);
        if (reply.status == 200) ++succeeded;
    }
    return succeeded;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
    const Known peers = known();
    const std::string digest = model::to_string(model::sha256({}));
    const std::string hold =
        R"(,"holding":{"model":"m","version":1,"complete":true,"bytes_held":9,"buckets":"03"}})"
        "\n";
    const std::string setup =
        join("a") + join("b") + "PUT /v1/manifests/" + digest + " \n" +
        R"(POST /v1/versions {"peer":)" + peers.first + R"(,"model":"m","version":1,"manifest":")" +
        digest +
        R"(","manifest_bytes":0,"root":"00000000000000000000000000000000","bytes":9,)"
        R"("chunk_count":2,"bucket_count":2,"channel":"stable"})"
        "\n" +
        R"(POST /v1/holdings {"peer":)" + peers.first + hold;
    const std::string pull = R"(POST /v1/pulls {"peer":)" + peers.second +
                             R"(,"model":"m","reference":":stable"})"
                             "\n";
    const std::string accuse = R"(POST /v1/reports {"reporter":)" + peers.second + R"(,"holder":)" +
                               peers.first.substr(6, peers.first.find(',') - 6) +
                               R"(,"model":"m","version":1,"kind":"corrupt"})"
                               "\n";
    // All requests of the longest seed must succeed, or the seeds have stopped reaching deep.
    const std::string longest = setup + pull + accuse + pull + "GET /v1/peers \nGET /v1/models \n" +
                                R"(POST /v1/models/find {"model":"m"})" + "\nGET /metrics \n";
    WEIGHTCAST_ASSERT(play(longest) == 12);
    return {longest, setup + pull + R"(POST /v1/peers/leave {"peer":)" + peers.first + "}\n" + pull,
            setup +
                R"(POST /v1/channels {"model":"m","channel":"c","version":1})"
                "\n" +
                R"(POST /v1/holdings/find {"model":"m","version":1,"bucket":1})"
                "\n"
                R"(POST /v1/channels/history {"model":"m","channel":"c"})"
                "\n"};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    play({reinterpret_cast<const char*>(data), size});
    return 0;
}
