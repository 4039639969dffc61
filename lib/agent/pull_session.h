// One pull on the I/O thread: carries out what the scheduler decides, over whichever fabrics reach
// the holders, and has arrived chunks verified, on the spot or by the workers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/destination.h"
#include "agent/held_version.h"
#include "agent/hint_policy.h"
#include "agent/io_thread.h"
#include "agent/membership.h"
#include "agent/scheduler.h"
#include "base/worker_pool.h"

namespace weightcast::agent {

struct PullSessionOptions {
    SchedulerOptions scheduler;
    std::vector<std::string> fabrics;  // only these, if any are named
    std::uint64_t buffer_bytes = 64ULL << 20U;
    std::uint32_t holders_max = kHoldersMax;  // links at a time
    std::uint32_t no_holder_ms_max = 30000;   // without any chunk before the pull gives up
    std::uint32_t renew_ms_min =
        kRenewFirst.count();  // between asking the registry for hints, at the start
};

// What one holder contributed.
struct Share {
    std::string peer;
    std::string fabric;
    bool emulated = false;
    std::uint64_t bytes = 0;
    double rate_max = 0;  // this reader's share of the holder's cap, 0: none
    std::string address;
    double port_rate = 0;  // of the fabric's ports, 0: it does not know
};

struct PullStatistics {
    std::uint64_t bytes_read = 0;      // over fabrics, repeated and wasted reads included
    std::uint64_t bytes_verified = 0;  // by this session
    std::uint32_t corrupt_chunks = 0;
    std::uint32_t holders_lost = 0;
    std::uint64_t pull = 0;  // the read lease at the end; it may not be the one at the start
    std::vector<Share> shares;
};

// Made and destroyed on any thread; everything else on the I/O thread.
class PullSession final : public IoSession, public std::enable_shared_from_this<PullSession> {
  public:
    struct Parts {
        IoThread& io;
        Membership& membership;
        WorkerPool& workers;
        std::shared_ptr<Destination> destination;
        std::shared_ptr<HeldVersion> held;  // what this process offers of the version meanwhile
    };
    PullSession(const Parts& parts, std::span<const std::uint32_t> missing,
                const PullSessionOptions& options);

    // From any thread, once. The future is set when every missing chunk is stored, or with the
    // error that ended the pull; by then no read and no job touches the destination any more.
    std::future<Result<void>> start(registry::Grant grant);
    // From any thread. Ends the pull with Code::cancelled.
    void cancel();

    // From any thread.
    std::uint64_t bytes_verified() const { return bytes_verified_; }
    std::uint32_t holders() const { return live_holders_; }
    // After the future is set.
    const PullStatistics& statistics() const { return statistics_; }

    void on_completion(std::uint64_t tag, fabric::ReadStatus status) override;
    void step(TimePoint now) override;
    TimePoint deadline() const override;

  private:
    struct Holder {
        registry::HolderHint hint;
        std::size_t fabric = 0;  // index into the I/O thread's
        fabric::LinkId link;
        fabric::LinkId page_link;  // apart where chunk reads would delay pages
        bool connected = false;
        SharedMemory page;
        std::unique_ptr<fabric::Region> page_region;
        std::uint64_t generation = 0;
        std::size_t share = 0;
    };
    struct Op {
        bool busy = false;
        bool page = false;
        HolderIndex holder = 0;
        std::uint32_t chunk = 0;
        std::uint32_t slot = 0;     // kInPlace, or a buffer
        std::uint32_t pending = 0;  // fabric reads outstanding
        bool waiting = false;       // read, but another copy may still be written in place
        fabric::ReadStatus status = fabric::ReadStatus::ok;
    };
    // What became of an arrived chunk.
    struct Stored {
        bool right = false;  // it has its digest
        Result<void> done = success();
    };
    // A peer that failed, and when it may be tried again.
    struct Penance {
        TimePoint until;
        std::uint32_t failures = 0;
        std::vector<std::size_t> fabrics;  // that failed
    };

    // Setup (pull_session.cpp)
    Result<void> prepare();
    void finish_if_done();
    void fail(Error error);

    // Holders (pull_holders.cpp)
    void use_grant();
    void add_hint(const registry::HolderHint& hint);
    void apply_plan();
    std::int64_t choose_fabric(const registry::HolderHint& hint) const;
    HolderTraits traits_of(const registry::HolderHint& hint, std::size_t fabric) const;
    void lose_holder(HolderIndex index, const std::string& why);
    void lose_failed_links(TimePoint now);
    void quarantine(HolderIndex index);
    void disconnect(Holder& holder);
    bool is_linked(std::uint64_t peer) const;
    void renew(TimePoint now);
    void on_grant(Result<registry::Grant> grant);
    void close_late(std::uint64_t pull);
    void report(const Holder& holder, registry::ReportKind kind, const std::string& detail);
    void check_starving(TimePoint now);

    // Reads (pull_session.cpp)
    std::uint32_t new_op();
    void read_page(HolderIndex index);
    void read_chunk(const Action& action);
    void submit_reads();
    void page_arrived(const Op& op);
    void op_completed(std::uint32_t index);
    // Whether a read, a cancelled one too, may still write to the chunk's place.
    bool written_in_place(std::uint32_t chunk) const;
    void chunk_arrived(std::uint32_t index);
    void verify(std::uint32_t index);
    Stored store_if_right(std::uint32_t chunk, std::span<const std::byte> bytes);
    void on_verdict(std::uint32_t index, const Stored& stored);
    void release(std::uint32_t index);
    std::span<std::byte> bytes_of(const Op& op) const;

    Parts parts_;
    PullSessionOptions options_;
    const model::Manifest& manifest_;
    PullScheduler scheduler_;
    std::uint32_t id_ = 0;
    std::promise<Result<void>> done_;
    bool finished_ = false;
    Error failure_;
    bool failed_ = false;

    SharedMemory buffers_;
    std::vector<std::uint32_t> free_buffers_;
    std::vector<std::unique_ptr<fabric::Region>> buffer_regions_;  // by fabric, made on demand
    std::vector<std::vector<std::unique_ptr<fabric::Region>>> place_regions_;
    std::vector<PlacedMemory> places_;
    bool in_place_ = false;

    std::vector<Holder> holders_;               // by HolderIndex
    std::map<std::uint64_t, Penance> penance_;  // by peer id
    std::vector<Op> ops_;
    std::vector<std::uint32_t> free_ops_;
    std::uint32_t ops_in_flight_ = 0;
    std::uint32_t jobs_in_flight_ = 0;
    std::vector<Action> actions_;
    std::vector<std::vector<fabric::Read>> reads_;  // to be submitted, by fabric

    registry::Grant grant_;
    bool renewing_ = false;
    TimePoint next_renew_{};
    Duration renew_interval_{};
    RateMeter rate_;
    TimePoint next_link_check_{};
    TimePoint last_progress_{};
    std::string last_trouble_;
    Random random_;

    std::atomic<std::uint64_t> bytes_verified_{0};
    std::atomic<std::uint32_t> live_holders_{0};
    PullStatistics statistics_;
};

}  // namespace weightcast::agent
