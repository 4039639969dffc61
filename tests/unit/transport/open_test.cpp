// Goal: transports are opened by name, best first. Method: open those that work on every machine.
#include "transport/open.h"

#include <string>
#include <vector>

#include "base/random.h"
#include "fabric/fabric.h"
#include "tests/kit/catch.h"

namespace weightcast::transport {
namespace {

TEST_CASE("named transports come best first, whatever the order of their names") {
    fabric::FabricOptions options;
    options.incarnation = random_identity();
    const std::vector<std::string> names = {"tcp", "shm"};
    const auto opened = open_fabrics(names, {}, options);
    REQUIRE_OK(opened);
    REQUIRE(opened.value().size() == 2);
    CHECK(opened.value()[0]->name() == std::string("shm"));
    CHECK(opened.value()[1]->name() == std::string("tcp"));
}

TEST_CASE("a transport that does not exist is not found, and named in the error") {
    const std::vector<std::string> names = {"shm", "pigeon"};
    const auto opened = open_fabrics(names, {}, {});
    REQUIRE(opened.has_error());
    CHECK(opened.error().code == Code::not_found);
    CHECK(opened.error().message.find("pigeon") != std::string::npos);
}

}  // namespace
}  // namespace weightcast::transport
