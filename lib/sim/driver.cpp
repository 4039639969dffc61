// The life of one pull, from the grant to the last chunk. Holders: driver_holders.cpp.
#include "sim/driver.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace weightcast::sim {

Driver::Driver(Rank rank, const DriverOptions& options, std::uint64_t seed, EventQueue& events,
               Network& network, RegistryDesk& desk)
    : rank_(rank),
      options_(options),
      events_(events),
      network_(network),
      desk_(desk),
      random_(seed),
      renew_interval_(agent::kRenewFirst) {}

void Driver::start() {
    started_ = true;
    start_ns_ = events_.now_ns();
    desk_.ask(
        rank_,
        [this](registry::Api& api, const registry::PeerRef& peer) {
            answer_ = api.open_pull({peer, kModel, "", agent::kHoldersMax});
        },
        [this] {
            if (answer_ && *answer_) grant_ = std::move(*answer_).value();
        });
    desk_.ask(
        rank_,
        [this](registry::Api& api, const registry::PeerRef& peer) {
            static_cast<void>(api.hold(peer, desk_.describe(rank_)));
        },
        [this] { ask_plan(); });
}

void Driver::ask_plan() {
    if (dead_) return;
    desk_.ask(
        rank_,
        [this](registry::Api& api, const registry::PeerRef& peer) {
            answer_ = api.renew_pull({peer, grant_.pull, {}, agent::kHoldersMax});
        },
        [this] { on_plan(); });
}

void Driver::on_plan() {
    const auto wait = *answer_ ? agent::wait_for_hints(answer_->value()) : std::nullopt;
    if (*answer_ && !wait) grant_ = std::move(*answer_).value();
    if (!wait || ++plan_waits_ >= agent::kPlanWaitsMax) return begin();
    events_.put(events_.now_ns() + wait->count(), EventKind::ask_plan, rank_);
}

void Driver::begin() {
    std::vector<std::uint32_t> wanted(options_.chunks);
    std::iota(wanted.begin(), wanted.end(), 0U);
    scheduler_.emplace(options_.chunks, network_.chunk_bytes(), wanted, random_.next(),
                       options_.scheduler);
    reading_ = true;
    planned_ns_ = events_.now_ns();
    if (grant_.renew_ms != 0) renew_interval_ = std::chrono::milliseconds(grant_.renew_ms);
    next_renew_ns_ = planned_ns_ + renew_interval_.count();
    for (const registry::HolderHint& hint : grant_.holders) add_hint(hint);
    apply_plan();
    step();
}

void Driver::step() {
    if (!reading_) return;
    if (scheduler_->finished()) return finish();
    if (events_.now_ns() >= next_renew_ns_) renew();
    actions_.clear();
    scheduler_->next_actions(now(), actions_);
    for (const agent::Action& action : actions_) {
        const Holder& holder = holders_[action.holder];
        if (action.kind == agent::Action::Kind::read_page) network_.request_page(holder.link);
        if (action.kind == agent::Action::Kind::read_chunk) {
            network_.request(holder.link, action.chunk);
        }
        if (action.kind == agent::Action::Kind::silent_holder) lose_holder(action.holder);
    }
    arm();
}

// Sees to it that there is a wake event at the next deadline or before.
void Driver::arm() {
    const std::int64_t deadline =
        std::min(scheduler_->next_deadline().time_since_epoch().count(), next_renew_ns_);
    if (deadline >= wake_ns_) return;
    wake_ns_ = std::max(deadline, events_.now_ns());
    events_.put(wake_ns_, EventKind::wake, rank_);
}

void Driver::on_wake() {
    // One of several, perhaps; each but the earliest finds that its time was not the next one.
    if (!reading_ || events_.now_ns() < wake_ns_) return;
    wake_ns_ = INT64_MAX;
    const std::int64_t deadline =
        std::min(scheduler_->next_deadline().time_since_epoch().count(), next_renew_ns_);
    if (events_.now_ns() < deadline) return arm();
    step();
}

bool Driver::on_arrival(const Network::Arrival& arrival) {
    if (!reading_ || !arrival.good) return false;
    bytes_read_ += network_.bytes_of(arrival.chunk);
    const agent::HolderIndex holder = network_.index(arrival.link);
    const bool fresh =
        scheduler_->on_chunk_read(holder, arrival.chunk, agent::ReadOutcome::ok, now());
    if (!fresh) ++twice_;
    if (fresh) scheduler_->on_chunk_verdict(holder, arrival.chunk, agent::Verdict::verified);
    return fresh;
}

void Driver::on_page(LinkId link) {
    if (!reading_ || !network_.is_open(link) || !network_.alive(network_.holder(link))) return;
    const Availability& has = network_.availability(network_.holder(link));
    agent::PageView page;
    page.state = has.complete() ? agent::PageState::complete : agent::PageState::partial;
    page.chunk_count = options_.chunks;
    page.held = has.held();
    page.words = has.words();
    scheduler_->on_page(network_.index(link), page, now());
    step();
}

void Driver::on_lost(LinkId link) {
    if (!reading_ || !network_.is_open(link)) return;
    lose_holder(network_.index(link));
    step();
}

void Driver::finish() {
    finished_ = true;
    reading_ = false;
    end_ns_ = events_.now_ns();
    for (const Holder& holder : holders_) network_.close(holder.link);
    scheduler_.reset();
    holders_ = {};
    desk_.ask(rank_,
              [this](registry::Api& api, const registry::PeerRef& peer) {
                  static_cast<void>(api.heartbeat({peer, {desk_.progress(rank_)}}));
              },
              {});
    desk_.ask(rank_,
              [this](registry::Api& api, const registry::PeerRef& peer) {
                  static_cast<void>(api.close_pull({peer, grant_.pull, true, bytes_read_, 0, 0}));
              },
              {});
}

void Driver::die() {
    dead_ = true;
    reading_ = false;
    desk_.forget(rank_);
    scheduler_.reset();
    holders_ = {};
}

}  // namespace weightcast::sim
