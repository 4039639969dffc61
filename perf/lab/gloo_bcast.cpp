// gloo-bcast: broadcasts a file from rank 0 into a file of each other rank, by one gloo::broadcast
// over TCP. Compiled by the lab and not by meson.
//
// gloo-bcast RANK RANKS ADDRESS MEETING_FOLDER FILE BYTES
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <cstdio>
#include <cstdlib>

#include "map_file.h"

namespace {

constexpr std::chrono::seconds kPatience{120};

void say(const char* word) {
    std::puts(word);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 7) {
        std::fputs("usage: gloo-bcast RANK RANKS ADDRESS MEETING_FOLDER FILE BYTES\n", stderr);
        return 2;
    }
    const int rank = std::atoi(argv[1]);
    const std::size_t bytes = std::strtoull(argv[6], nullptr, 10);
    char* memory = map_file(argv[5], bytes, rank == 0);
    auto context = std::make_shared<gloo::rendezvous::Context>(rank, std::atoi(argv[2]));
    context->setTimeout(kPatience);
    gloo::rendezvous::FileStore store(argv[4]);
    auto device = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(argv[3]));
    context->connectFullMesh(store, device);
    if (rank > 0) {
        say("loaded");
        std::getchar();
    }
    gloo::BroadcastOptions options(context);
    options.setOutput(memory, bytes);
    options.setRoot(0);
    options.setTimeout(kPatience);
    gloo::broadcast(options);
    if (rank > 0) say("done");
    // Whoever leaves takes its connections along, over which others may still be sent to.
    gloo::BarrierOptions all(context);
    gloo::barrier(all);
    return 0;
}
