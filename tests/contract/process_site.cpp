#include "tests/contract/process_site.h"

#include <poll.h>

#include <array>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/random.h"
#include "tests/contract/served.h"
#include "tests/kit/child.h"

namespace weightcast::contract {
namespace {

std::string to_text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

fabric::RegionKey to_key(const std::string& text) {
    fabric::RegionKey key(text.size());
    std::memcpy(key.data(), text.data(), text.size());
    return key;
}

std::string must_receive(kit::Channel& channel) {
    auto message = channel.receive();
    WEIGHTCAST_ASSERT(message.has_value());
    return *message;
}

std::uint64_t to_number(const std::string& text) {
    std::uint64_t number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return number;
}

// In the child: serves until the parent is gone.
int hold(kit::Channel& channel, const OpenFabric& open, const std::vector<RegionPlan>& plans,
         const fabric::FabricOptions& options) {
    auto fabric = open(options);
    if (!fabric) return 2;
    Served served(*fabric.value(), plans);
    channel.send(fabric.value()->address());
    for (std::size_t i = 0; i < served.size(); ++i) channel.send(to_text(served.key(i)));
    while (const auto command = channel.receive()) {
        const auto region = static_cast<std::size_t>(to_number(must_receive(channel)));
        const std::uint64_t argument = to_number(must_receive(channel));
        if (*command == "drop") served.drop(region);
        if (*command == "truncate") served.truncate(region, argument);
        if (*command == "overwrite") served.overwrite(region, argument);
        if (*command == "open_gate") served.open_gate(region, argument);
        channel.send("done");
    }
    return 0;
}

class ProcessHolder final : public Holder {
  public:
    ProcessHolder(const OpenFabric& open, const std::vector<RegionPlan>& plans,
                  const fabric::FabricOptions& options)
        : child_([&](kit::Channel& channel) { return hold(channel, open, plans, options); }) {
        peer_ = {must_receive(child_.channel()), options.incarnation};
        for (std::size_t i = 0; i < plans.size(); ++i) {
            keys_.push_back(to_key(must_receive(child_.channel())));
        }
    }

    fabric::PeerAddress peer() const override { return peer_; }
    fabric::RegionKey key(std::size_t region) const override { return keys_[region]; }
    void drop(std::size_t region) override { command("drop", region, 0); }
    void truncate(std::size_t region, std::uint64_t bytes) override {
        command("truncate", region, bytes);
    }
    void overwrite(std::size_t region, std::uint64_t seed) override {
        command("overwrite", region, seed);
    }
    void open_gate(std::size_t region, std::uint64_t bit) override {
        command("open_gate", region, bit);
    }
    void kill() override { child_.kill(); }
    void pause() override { child_.stop(); }
    void resume() override { child_.resume(); }
    int pid() const override { return child_.pid(); }

  private:
    void command(const std::string& name, std::size_t region, std::uint64_t argument) {
        child_.channel().send(name);
        child_.channel().send(std::to_string(region));
        child_.channel().send(std::to_string(argument));
        must_receive(child_.channel());
    }

    kit::Child child_;
    fabric::PeerAddress peer_;
    std::vector<fabric::RegionKey> keys_;
};

// In the child: reads until it is killed.
int read_on(kit::Channel& channel, const OpenFabric& open, const fabric::PeerAddress& peer,
            const fabric::RegionKey& key, std::uint64_t bytes) {
    constexpr std::uint64_t kWindow = 4;
    auto fabric = open(fresh_options());
    if (!fabric) return 2;
    std::vector<std::byte> memory(static_cast<std::size_t>(kWindow * bytes));
    fabric::Memory local;
    local.bytes = memory;
    auto region = fabric.value()->register_memory(local, fabric::Access::local);
    if (!region) return 2;
    const fabric::LinkId link = fabric.value()->connect(peer);
    const auto start = [&](std::uint64_t slot) {
        const fabric::Read read{
            link, key, 0, region.value().get(), slot * bytes, bytes, fabric::ReadTag(slot)};
        fabric.value()->submit({&read, 1});
    };
    for (std::uint64_t slot = 0; slot < kWindow; ++slot) start(slot);
    bool told = false;
    while (true) {
        std::array<fabric::Completion, kWindow> done;
        const std::size_t count = fabric.value()->poll(done);
        for (std::size_t i = 0; i < count; ++i) {
            if (done[i].status != fabric::ReadStatus::ok) return 3;
            if (!std::exchange(told, true)) channel.send("reading");
            start(done[i].tag.value);
        }
        if (count > 0 || fabric.value()->wait_fd() < 0) continue;
        ::pollfd waiting{fabric.value()->wait_fd(), POLLIN, 0};
        ::poll(&waiting, 1, fabric.value()->wait_ms());
    }
}

class ProcessReader final : public BusyReader {
  public:
    ProcessReader(const OpenFabric& open, const fabric::PeerAddress& peer,
                  const fabric::RegionKey& key, std::uint64_t bytes)
        : child_([&](kit::Channel& channel) { return read_on(channel, open, peer, key, bytes); }) {
        must_receive(child_.channel());
    }
    void kill() override { child_.kill(); }

  private:
    kit::Child child_;
};

class ProcessSite final : public Site {
  public:
    explicit ProcessSite(ProcessSiteOptions options) : options_(std::move(options)) {}

    std::unique_ptr<fabric::Fabric> open(const fabric::FabricOptions& options) override {
        auto fabric = options_.open(options);
        WEIGHTCAST_ASSERT(fabric.has_value());
        return std::move(fabric).value();
    }
    std::unique_ptr<Holder> start_holder(const std::vector<RegionPlan>& regions,
                                         const fabric::FabricOptions& options) override {
        return std::make_unique<ProcessHolder>(options_.open_holder, regions, options);
    }
    std::unique_ptr<BusyReader> start_reader(const fabric::PeerAddress& peer,
                                             const fabric::RegionKey& key,
                                             std::uint64_t bytes) override {
        return std::make_unique<ProcessReader>(options_.open, peer, key, bytes);
    }
    fabric::PeerAddress nobody() override { return {options_.nobody, random_identity()}; }
    bool pins_files() const override { return options_.pins_files; }

  private:
    const ProcessSiteOptions options_;
};

}  // namespace

std::unique_ptr<Site> make_process_site(ProcessSiteOptions options) {
    return std::make_unique<ProcessSite>(std::move(options));
}

std::string reason_to_skip(const OpenFabric& open) {
    // In a child, so that no fabric has started threads here when tests fork.
    kit::Child child([&](kit::Channel& channel) {
        const auto fabric = open(fresh_options());
        channel.send(fabric ? "" : fabric.error().message);
        return 0;
    });
    return must_receive(child.channel());
}

std::string sample_address(const OpenFabric& open) {
    kit::Child child([&](kit::Channel& channel) {
        const auto fabric = open(fresh_options());
        channel.send(fabric ? fabric.value()->address() : "");
        return 0;
    });
    return must_receive(child.channel());
}

}  // namespace weightcast::contract
