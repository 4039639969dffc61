// The native transport: one-sided READ over RDMA verbs. A holder's process does nothing for a read.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "fabric/fabric.h"
#include "transport/verbs/acceptor.h"
#include "transport/verbs/link.h"
#include "transport/verbs/registration.h"

namespace weightcast::transport::verbs {

class VerbsFabric final : public fabric::Fabric {
  public:
    // Errors: unavailable (no device, or none that fits the options), invalid_input, not_found, io.
    static Result<std::unique_ptr<VerbsFabric>> open(const fabric::FabricOptions& options);
    ~VerbsFabric() override;

    const char* name() const override { return "verbs"; }
    // Software devices read with the CPU of the holder's host, if not by its process.
    bool emulated() const override { return emulated_; }
    std::string address() const override { return acceptor_->address().text(); }
    bool can_reach(const std::string& address) const override;
    Result<std::unique_ptr<fabric::Region>> register_memory(const fabric::Memory& memory,
                                                            fabric::Access access) override;
    fabric::LinkId connect(const fabric::PeerAddress& peer) override;
    void disconnect(fabric::LinkId link) override;
    std::string link_error(fabric::LinkId link) const override;
    void submit(std::span<const fabric::Read> reads) override;
    std::size_t poll(std::span<fabric::Completion> completions) override;
    int wait_fd() const override { return epoll_.get(); }
    int wait_ms() const override;
    std::uint64_t port_rate() const override;
    std::uint64_t bytes_served() const override { return 0; }

  private:
    explicit VerbsFabric(const fabric::FabricOptions& options);
    Result<void> open_rails();
    Result<void> open_events();
    std::size_t poll_links(TimePoint now);
    void on_events(TimePoint now);
    void check_links(TimePoint now);
    void start(Link& link, TimePoint now);
    void schedule(const Link& link);
    void reschedule();
    void arm();
    bool is_reading() const;

    const fabric::FabricOptions options_;
    std::shared_ptr<Rails> rails_;  // shared with regions, which may outlive the fabric
    std::shared_ptr<RegistrationTable> registrations_;
    bool emulated_ = false;
    UniqueFd epoll_;
    UniqueFd port_changed_;                // an eventfd
    std::vector<ChannelHandle> channels_;  // of completions, by rail
    OperationTable operations_;
    CompletionRing done_;
    std::unique_ptr<LinkShared> shared_;
    std::map<std::uint32_t, std::unique_ptr<Link>> links_;
    std::vector<std::unique_ptr<Link>> leaving_;  // disconnected, not drained
    std::uint32_t links_made_ = 0;
    std::unique_ptr<Acceptor> acceptor_;

    bool armed_ = false;  // the channels tell of the next completion
    TimePoint last_settled_{};
    TimePoint next_events_{};
    TimePoint next_check_ = TimePoint::max();
};

}  // namespace weightcast::transport::verbs
