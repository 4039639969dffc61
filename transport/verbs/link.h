// A link to one holder: its queue of reads, cut into pieces and dealt out to its lanes by free
// window. Thread-bound.
//
// A lane that fails gives its pieces back, and the other lanes read them. It is opened again after
// a while. The link fails when no lane is left, or when nothing has moved for too long.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "fabric/fabric.h"
#include "transport/verbs/lane.h"
#include "transport/verbs/operations.h"
#include "transport/verbs/registration.h"

namespace weightcast::transport::verbs {

// What the links of a fabric share.
struct LinkShared {
    const fabric::FabricOptions& options;
    const Rails& rails;
    const std::vector<ChannelHandle>& channels;  // of completions, by rail
    OperationTable& operations;
    CompletionRing& done;
    int epoll = -1;                // watches the lanes' connectors
    std::uint32_t lanes_made = 0;  // for their numbers
    Random random{random_seed()};
};

// What epoll says of a lane's descriptor.
struct LaneName {
    std::uint32_t link = 0;
    std::uint32_t lane = 0;
    std::uint64_t encode() const { return std::uint64_t{link} << 32U | lane; }
    static LaneName decode(std::uint64_t data) {
        return {static_cast<std::uint32_t>(data >> 32U), static_cast<std::uint32_t>(data)};
    }
};

class Link final : private PieceSink {
  public:
    Link(LinkShared& shared, std::uint32_t id, fabric::PeerAddress peer);

    // Opens the lanes.
    void open(TimePoint now);
    void add(const fabric::Read& read, TimePoint now);
    // Deals out what the windows take.
    void pump(TimePoint now);
    // Takes up completions. Gives the number of pieces that were settled.
    std::size_t poll(TimePoint now);
    void arm();
    // The descriptor of a lane's connector is ready.
    void on_ready(std::uint32_t lane, TimePoint now);
    // Acts on deadlines, and on ports that went down.
    void check(TimePoint now);
    // When check() is to be called again; TimePoint::max() if never.
    TimePoint deadline() const;

    // Ends the link: its reads complete with this status once no device writes for them any more.
    void fail(LaneFailure failure, TimePoint now);
    // Failed, and nothing is left to complete.
    bool settled() const { return failed_ && live_ == 0 && all_down(); }
    // As settled(), at once. For the end of the fabric.
    void abandon();

    bool failed() const { return failed_; }
    std::uint32_t outstanding() const;  // pieces
    const std::string& error() const { return error_; }

  private:
    void on_piece(const Piece& piece, PieceOutcome outcome) override;
    void open_lane(Lane& lane, TimePoint now);
    void watch(const Lane& lane, bool again);
    bool all_down() const;
    bool has_work() const { return live_ > 0; }
    // Looks at lanes that went down: opens one again now or later, or fails the link.
    void review(TimePoint now);
    Lane* roomiest();
    // The next piece to post on this lane; false if there is none.
    bool next_piece(const Lane& lane, Piece& piece);
    bool is_denied(const KeyView& key) const;
    void finish_if_done(std::uint32_t operation);

    LinkShared& shared_;
    const std::uint32_t id_;
    const fabric::PeerAddress peer_;
    HolderAddress address_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    OperationQueue queue_;
    std::vector<Piece> retries_;             // came back from lanes that failed
    std::vector<fabric::RegionKey> denied_;  // keys that the holder's device has refused
    std::uint32_t live_ = 0;                 // operations that are not complete
    TimePoint progress_{};
    bool failed_ = false;
    fabric::ReadStatus status_ = fabric::ReadStatus::ok;
    std::string error_;
};

}  // namespace weightcast::transport::verbs
