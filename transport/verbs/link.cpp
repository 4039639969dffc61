#include "transport/verbs/link.h"

#include <fmt/core.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::ReadStatus;

constexpr std::size_t kDeniedMax = 64;

bool same_family(const SocketAddress& a, const SocketAddress& b) {
    return a.storage.ss_family == b.storage.ss_family;
}

}  // namespace

Link::Link(LinkShared& shared, std::uint32_t id, fabric::PeerAddress peer)
    : shared_(shared), id_(id), peer_(std::move(peer)), queue_(shared.operations) {}

// Rail i of ours goes to rail i of the holder's, so that rails that are wired apart stay apart.
void Link::open(TimePoint now) {
    progress_ = now;
    auto address = HolderAddress::parse(peer_.address);
    if (!address) {
        return fail({ReadStatus::unreachable, "that is no verbs address", false}, now);
    }
    address_ = std::move(*address);
    for (std::size_t rail = 0; rail < shared_.rails.size(); ++rail) {
        const Rail& ours = *shared_.rails[rail];
        const std::size_t remote = rail % address_.rails.size();
        const auto& theirs = address_.rails[remote];
        const bool by_cm = !shared_.options.out_of_band && theirs && ours.choice().ip &&
                           same_family(*theirs, *ours.choice().ip);
        if (!by_cm && !address_.control) continue;
        const Lane::Place place{shared_.lanes_made++, rail, remote};
        lanes_.push_back(std::make_unique<Lane>(ours, place, static_cast<PieceSink&>(*this)));
        if (ours.up) open_lane(*lanes_.back(), now);
    }
    if (lanes_.empty()) {
        return fail({ReadStatus::unreachable, "no rail of ours has an address that fits", false},
                    now);
    }
    review(now);
}

void Link::open_lane(Lane& lane, TimePoint now) {
    const auto& theirs = address_.rails[lane.place().remote_rail];
    const auto& ours = lane.rail().choice().ip;
    Lane::Target target;
    target.expected = peer_.incarnation;
    target.reader = shared_.options.incarnation;
    target.options.traffic_class = shared_.options.traffic_class;
    if (!shared_.options.out_of_band && theirs && ours && same_family(*theirs, *ours)) {
        target.cm = theirs;
    } else {
        target.control = address_.control;
    }
    lane.open(target, shared_.channels[lane.place().rail].get(), now);
    watch(lane, false);
}

void Link::watch(const Lane& lane, bool again) {
    if (lane.connector() == nullptr || lane.connector()->fd() < 0) return;
    const auto position = std::ranges::find(lanes_, &lane, &std::unique_ptr<Lane>::get);
    ::epoll_event event{};
    event.events = lane.connector()->wants_write() ? EPOLLOUT : EPOLLIN;
    event.data.u64 = LaneName{id_, static_cast<std::uint32_t>(position - lanes_.begin())}.encode();
    ::epoll_ctl(shared_.epoll, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, lane.connector()->fd(),
                &event);
}

void Link::on_ready(std::uint32_t index, TimePoint now) {
    if (index >= lanes_.size()) return;
    Lane& lane = *lanes_[index];
    const bool was_connecting = lane.state() == Lane::State::connecting;
    const bool wrote = lane.connector() != nullptr && lane.connector()->wants_write();
    lane.on_ready(now);
    if (wrote) watch(lane, true);
    if (was_connecting && lane.state() == Lane::State::ready) {
        progress_ = now;
        const RailChoice& rail = lane.rail().choice();
        log(LogLevel::info, "verbs: connected to {} from {}, {}, {} reads deep", peer_.address,
            rail.name(), shared_.options.out_of_band ? "out of band" : "by librdmacm",
            lane.connector()->read_depth());
    }
    review(now);
}

void Link::add(const fabric::Read& read, TimePoint now) {
    const auto key = KeyView::parse(read.key);
    const bool inside = key && read.remote_offset <= key->bytes() &&
                        read.bytes <= key->bytes() - read.remote_offset;
    if (failed_ || !inside || is_denied(*key)) {
        shared_.done.push({read.tag, failed_ ? status_ : ReadStatus::access_denied});
        return;
    }
    if (!has_work()) progress_ = now;
    const std::uint32_t index = shared_.operations.add();
    Operation& operation = shared_.operations[index];
    operation.tag = read.tag;
    operation.local = static_cast<const VerbsRegion*>(read.local);
    operation.key = *key;
    operation.local_offset = read.local_offset;
    operation.remote_offset = read.remote_offset;
    operation.bytes = read.bytes;
    queue_.push(index);
    ++live_;
}

bool Link::is_denied(const KeyView& key) const {
    return std::ranges::any_of(denied_, [&](const fabric::RegionKey& denied) {
        return std::ranges::equal(denied, key.encoded());
    });
}

Lane* Link::roomiest() {
    Lane* best = nullptr;
    double most = 0;
    for (const auto& lane : lanes_) {
        const double room = lane->room();
        if (room <= most) continue;
        most = room;
        best = lane.get();
    }
    return best;
}

bool Link::next_piece(const Lane& lane, Piece& piece) {
    while (!retries_.empty()) {
        piece = retries_.back();
        retries_.pop_back();
        Operation& operation = shared_.operations[piece.operation];
        if (operation.status == ReadStatus::ok && is_denied(operation.key)) {
            operation.status = ReadStatus::access_denied;
        }
        if (operation.status == ReadStatus::ok) return true;
        --operation.outstanding;
        finish_if_done(piece.operation);
    }
    while (!queue_.empty()) {
        const std::uint32_t index = queue_.front();
        Operation& operation = shared_.operations[index];
        const bool known = lane.place().remote_rail < operation.key.rails();
        if (operation.status == ReadStatus::ok && (!known || is_denied(operation.key))) {
            operation.status = ReadStatus::access_denied;
        }
        if (operation.status != ReadStatus::ok) {
            queue_.pop();
            finish_if_done(index);
            continue;
        }
        const std::uint64_t left = operation.bytes - operation.handed_out;
        const std::uint64_t bytes = std::min<std::uint64_t>(
            {left, lane.piece_bytes(),
             operation.key.slice_left(operation.remote_offset + operation.handed_out),
             operation.local->slice_left(operation.local_offset + operation.handed_out)});
        piece = {index, static_cast<std::uint32_t>(bytes), operation.handed_out};
        operation.handed_out += bytes;
        ++operation.outstanding;
        if (bytes == left) queue_.pop();
        return true;
    }
    return false;
}

void Link::pump(TimePoint now) {
    if (failed_) return;
    constexpr std::uint32_t kBatch = 32;
    for (bool more = true; more && !failed_;) {
        more = false;
        Piece piece;
        for (std::uint32_t staged = 0; staged < kBatch; ++staged) {
            Lane* lane = roomiest();
            if (lane == nullptr || !next_piece(*lane, piece)) break;
            const Operation& operation = shared_.operations[piece.operation];
            const Lane::Place& place = lane->place();
            const std::uint64_t to = operation.local_offset + piece.offset;
            const std::uint64_t from = operation.remote_offset + piece.offset;
            lane->stage(piece, {operation.local->address(to), operation.key.base() + from,
                                operation.local->local_key(to, place.rail),
                                operation.key.remote_key(from, place.remote_rail)});
            more = true;
        }
        bool down = false;
        for (const auto& lane : lanes_) {
            const Lane::State before = lane->state();
            lane->post(now);
            down = down || lane->state() != before;
        }
        if (down) review(now);
    }
}

void Link::on_piece(const Piece& piece, PieceOutcome outcome) {
    Operation& operation = shared_.operations[piece.operation];
    if (outcome == PieceOutcome::again && operation.status == ReadStatus::ok && !failed_) {
        retries_.push_back(piece);  // still counted in `outstanding`
        return;
    }
    --operation.outstanding;
    if (outcome == PieceOutcome::again && operation.status == ReadStatus::ok) {
        operation.status = status_;
    }
    if (outcome == PieceOutcome::denied) {
        operation.status = ReadStatus::access_denied;
        if (denied_.size() == kDeniedMax) denied_.erase(denied_.begin());
        const auto key = operation.key.encoded();
        denied_.emplace_back(key.begin(), key.end());
    }
    if (outcome == PieceOutcome::remote_fault) operation.status = ReadStatus::remote_fault;
    finish_if_done(piece.operation);
}

void Link::finish_if_done(std::uint32_t index) {
    Operation& operation = shared_.operations[index];
    if (!operation.done()) return;
    const bool whole = operation.handed_out == operation.bytes;
    WEIGHTCAST_ASSERT(whole || operation.status != ReadStatus::ok);
    shared_.done.push({operation.tag, operation.status});
    shared_.operations.remove(index);
    --live_;
}

std::size_t Link::poll(TimePoint now) {
    std::size_t settled = 0;
    bool down = false;
    for (const auto& lane : lanes_) {
        const Lane::State before = lane->state();
        if (before == Lane::State::down || before == Lane::State::connecting) continue;
        settled += lane->poll(now);
        down = down || lane->state() != before;
    }
    if (settled > 0) progress_ = now;
    if (down) review(now);
    return settled;
}

void Link::arm() {
    for (const auto& lane : lanes_) lane->arm();
}

std::uint32_t Link::outstanding() const {
    std::uint32_t pieces = 0;
    for (const auto& lane : lanes_) pieces += lane->outstanding();
    return pieces;
}

bool Link::all_down() const {
    return std::ranges::all_of(lanes_,
                               [](const auto& lane) { return lane->state() == Lane::State::down; });
}

}  // namespace weightcast::transport::verbs
