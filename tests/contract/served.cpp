#include "tests/contract/served.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "base/assert.h"
#include "tests/kit/pattern.h"

namespace weightcast::contract {
namespace {

// A file without a name, mapped.
SharedMemory make_file(std::uint64_t bytes) {
    std::string path = "/tmp/weightcast-contract-XXXXXX";
    SharedMemory file;
    file.fd.reset(::mkostemp(path.data(), O_CLOEXEC));
    WEIGHTCAST_ASSERT(static_cast<bool>(file.fd));
    ::unlink(path.c_str());
    WEIGHTCAST_ASSERT(::ftruncate(file.fd.get(), static_cast<::off_t>(bytes)) == 0);
    auto pages = Mapping::map_file(file.fd.get(), 0, static_cast<std::size_t>(bytes), true);
    WEIGHTCAST_ASSERT(pages.has_value());
    file.pages = std::move(pages).value();
    return file;
}

SharedMemory make_memory(const RegionPlan& plan) {
    if (plan.kind == RegionPlan::Kind::file) return make_file(plan.bytes);
    auto memory = SharedMemory::create("contract", static_cast<std::size_t>(plan.bytes));
    WEIGHTCAST_ASSERT(memory.has_value());
    return std::move(memory).value();
}

}  // namespace

Served::Served(fabric::Fabric& fabric, const std::vector<RegionPlan>& plans) : fabric_(fabric) {
    for (const RegionPlan& plan : plans) {
        memory_.push_back(make_memory(plan));
        const SharedMemory& memory = memory_.back();
        if (plan.kind != RegionPlan::Kind::gates) {
            kit::fill_pattern(memory.pages.span(), plan.seed);
        }
        fabric::Memory registered;
        registered.bytes = memory.pages.span();
        registered.fd = memory.fd.get();
        registered.fd_may_shrink = plan.kind == RegionPlan::Kind::file;
        auto region = fabric.register_memory(registered, fabric::Access::remote_read);
        WEIGHTCAST_ASSERT(region.has_value());
        regions_.push_back(std::move(region).value());
    }
}

void Served::truncate(std::size_t region, std::uint64_t bytes) {
    WEIGHTCAST_ASSERT(::ftruncate(memory_[region].fd.get(), static_cast<::off_t>(bytes)) == 0);
}

void Served::overwrite(std::size_t region, std::uint64_t seed) {
    kit::fill_pattern(memory_[region].pages.span(), seed);
}

void Served::open_gate(std::size_t region, std::uint64_t bit) {
    auto* words = reinterpret_cast<std::uint64_t*>(memory_[region].pages.data());
    std::atomic_ref(words[bit / 64])
        .fetch_or(std::uint64_t{1} << (bit % 64), std::memory_order_release);
    fabric_.gates_opened();
}

}  // namespace weightcast::contract
