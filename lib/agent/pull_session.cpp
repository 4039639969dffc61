#include "agent/pull_session.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace weightcast::agent {
namespace {

constexpr std::uint32_t kInPlace = UINT32_MAX;
constexpr std::uint64_t kIdleBytesMax = 256U << 10U;  // of a chunk that the I/O thread verifies
constexpr std::size_t kSecondCopyBuffers = 4;         // where chunks are read in place

SchedulerOptions fit_to_buffers(SchedulerOptions options, std::uint64_t buffer_bytes,
                                std::uint64_t chunk_bytes) {
    const std::uint64_t buffers = std::max<std::uint64_t>(4, buffer_bytes / chunk_bytes);
    options.in_flight_max =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(options.in_flight_max, buffers / 2));
    return options;
}

}  // namespace

PullSession::PullSession(const Parts& parts, std::span<const std::uint32_t> missing,
                         const PullSessionOptions& options)
    : parts_(parts),
      options_(options),
      manifest_(parts.held->manifest()),
      scheduler_(
          manifest_.layout.chunk_count(), manifest_.layout.chunk_bytes(), missing, random_seed(),
          fit_to_buffers(options.scheduler, options.buffer_bytes, manifest_.layout.chunk_bytes())),
      renew_interval_(std::chrono::milliseconds(options.renew_ms_min)),
      random_(random_seed()) {}

std::future<Result<void>> PullSession::start(registry::Grant grant) {
    auto future = done_.get_future();
    parts_.io.post([self = shared_from_this(), grant = std::move(grant)]() mutable {
        self->grant_ = std::move(grant);
        self->id_ = self->parts_.io.attach(self.get());
        self->last_progress_ = system_clock().now();
        if (self->grant_.renew_ms != 0) {
            self->renew_interval_ = std::chrono::milliseconds(self->grant_.renew_ms);
        }
        self->next_renew_ = self->last_progress_ + self->renew_interval_;
        if (auto prepared = self->prepare(); !prepared) {
            self->fail(prepared.error());
        } else {
            self->use_grant();
        }
    });
    return future;
}

void PullSession::cancel() {
    parts_.io.post([self = shared_from_this()] {
        self->fail({Code::cancelled, 0, "the pull was cancelled"});
    });
}

Result<void> PullSession::prepare() {
    const model::Layout& layout = manifest_.layout;
    places_ = parts_.destination->memory();
    in_place_ = layout.chunk_count() > 0 && !parts_.destination->in_place(0).empty();
    const std::size_t count =
        in_place_ ? kSecondCopyBuffers
                  : std::max<std::uint64_t>(4, options_.buffer_bytes / layout.chunk_bytes());
    WEIGHTCAST_TRY(buffers_,
                   SharedMemory::create("weightcast-buffers", count * layout.chunk_bytes()));
    for (std::uint32_t i = 0; i < count; ++i) free_buffers_.push_back(i);
    buffer_regions_.resize(parts_.io.fabrics().size());
    place_regions_.resize(parts_.io.fabrics().size());
    reads_.resize(parts_.io.fabrics().size());
    return success();
}

void PullSession::fail(Error error) {
    if (failed_ || finished_) return;
    failed_ = true;
    failure_ = std::move(error);
    for (HolderIndex index = 0; index < holders_.size(); ++index) {
        scheduler_.remove_holder(index);
        disconnect(holders_[index]);
    }
}

void PullSession::finish_if_done() {
    if (!failed_ && !scheduler_.finished()) return;
    for (Holder& holder : holders_) disconnect(holder);
    if (ops_in_flight_ > 0 || jobs_in_flight_ > 0) return;
    finished_ = true;
    statistics_.pull = grant_.pull;
    holders_.clear();
    buffer_regions_.clear();
    place_regions_.clear();
    parts_.io.detach(id_);
    done_.set_value(failed_ ? Result<void>(failure_) : Result<void>(success()));
}

TimePoint PullSession::deadline() const {
    return std::min(scheduler_.next_deadline(), next_renew_);
}

void PullSession::step(TimePoint now) {
    if (!failed_) {
        if (!scheduler_.finished()) lose_failed_links(now);
        if (now >= next_renew_) renew(now);
        check_starving(now);
        actions_.clear();
        scheduler_.next_actions(now, actions_);
        for (const Action& action : actions_) {
            if (action.kind == Action::Kind::read_page) read_page(action.holder);
            if (action.kind == Action::Kind::read_chunk) read_chunk(action);
            if (action.kind == Action::Kind::quarantine_holder) quarantine(action.holder);
            if (action.kind == Action::Kind::silent_holder) {
                lose_holder(action.holder, "it does not answer");
            }
        }
        submit_reads();
        live_holders_ = scheduler_.live_holders();
    }
    finish_if_done();
}

std::uint32_t PullSession::new_op() {
    ++ops_in_flight_;
    if (free_ops_.empty()) {
        ops_.emplace_back();
        free_ops_.push_back(static_cast<std::uint32_t>(ops_.size() - 1));
    }
    const std::uint32_t index = free_ops_.back();
    free_ops_.pop_back();
    ops_[index] = {};
    ops_[index].busy = true;
    return index;
}

void PullSession::read_page(HolderIndex index) {
    Holder& holder = holders_[index];
    if (!holder.connected) return;
    const std::uint32_t op = new_op();
    ops_[op].page = true;
    ops_[op].holder = index;
    ops_[op].pending = 1;
    const fabric::Fabric& fabric = *parts_.io.fabrics()[holder.fabric];
    reads_[holder.fabric].push_back({holder.page_link, holder.hint.holding.keys[fabric.name()].page,
                                     0, holder.page_region.get(), 0, holder.page.pages.size(),
                                     IoThread::tag(id_, op)});
}

// All that were asked for at once, since one message to a holder costs less than several.
void PullSession::submit_reads() {
    for (std::size_t i = 0; i < reads_.size(); ++i) {
        if (reads_[i].empty()) continue;
        parts_.io.fabrics()[i]->submit(reads_[i]);
        reads_[i].clear();
    }
}

std::span<std::byte> PullSession::bytes_of(const Op& op) const {
    const model::Layout& layout = manifest_.layout;
    if (op.slot == kInPlace) return parts_.destination->in_place(op.chunk);
    return buffers_.pages.span().subspan(std::size_t{op.slot} * layout.chunk_bytes(),
                                         layout.chunk_range(op.chunk).bytes);
}

void PullSession::read_chunk(const Action& action) {
    const model::Layout& layout = manifest_.layout;
    Holder& holder = holders_[action.holder];
    // Bytes that a cancelled read may still write in place must not meet those of a new one.
    const bool taken = in_place_ && std::any_of(ops_.begin(), ops_.end(), [&](const Op& other) {
                           return other.busy && !other.page && other.chunk == action.chunk &&
                                  other.slot == kInPlace;
                       });
    const bool buffered = !in_place_ || action.second_copy || taken;
    if (!holder.connected || (buffered && free_buffers_.empty())) {
        scheduler_.on_chunk_read(action.holder, action.chunk, ReadOutcome::failed,
                                 system_clock().now());
        return;
    }
    const std::uint32_t index = new_op();
    Op& op = ops_[index];
    op.holder = action.holder;
    op.chunk = action.chunk;
    op.slot = kInPlace;
    const std::uint64_t place = std::uint64_t{action.chunk} << layout.options().chunk_shift;
    const std::uint64_t bytes = layout.chunk_range(action.chunk).bytes;
    fabric::Region* local = nullptr;
    std::uint64_t local_offset = 0;
    if (buffered) {
        op.slot = free_buffers_.back();
        free_buffers_.pop_back();
        local = buffer_regions_[holder.fabric].get();
        local_offset = std::uint64_t{op.slot} * layout.chunk_bytes();
    } else {
        const auto next =
            std::upper_bound(places_.begin(), places_.end(), place,
                             [](std::uint64_t at, const PlacedMemory& p) { return at < p.place; });
        const auto which = static_cast<std::size_t>(next - places_.begin()) - 1;
        local = place_regions_[holder.fabric][which].get();
        local_offset = place - places_[which].place;
    }
    const fabric::Fabric& fabric = *parts_.io.fabrics()[holder.fabric];
    const auto& extents = holder.hint.holding.extents;
    const auto& keys = holder.hint.holding.keys[fabric.name()].regions;
    auto& reads = reads_[holder.fabric];
    auto extent =
        std::upper_bound(extents.begin(), extents.end(), place,
                         [](std::uint64_t at, const registry::Extent& e) { return at < e.place; });
    --extent;
    for (std::uint64_t done = 0; done < bytes; ++extent) {
        const std::uint64_t inside = place + done - extent->place;
        const std::uint64_t piece = std::min(bytes - done, extent->bytes - inside);
        reads.push_back({holder.link, keys[extent->region], extent->offset + inside, local,
                         local_offset + done, piece, IoThread::tag(id_, index)});
        if (action.gated) {
            reads.back().gate = holder.hint.holding.keys[fabric.name()].page;
            reads.back().gate_bit = page_bit(action.chunk);
            reads.back().turn = holder.hint.turn;
        }
        done += piece;
        ++op.pending;
    }
}

void PullSession::on_completion(std::uint64_t tag, fabric::ReadStatus status) {
    const auto index = static_cast<std::uint32_t>(tag);
    Op& op = ops_[index];
    WEIGHTCAST_ASSERT(op.busy && op.pending > 0);
    --op.pending;
    if (status != fabric::ReadStatus::ok) op.status = status;
    if (op.pending == 0) op_completed(index);
}

void PullSession::op_completed(std::uint32_t index) {
    const Op op = ops_[index];
    if (op.status != fabric::ReadStatus::ok) {
        if (!op.page) {
            scheduler_.on_chunk_read(op.holder, op.chunk, ReadOutcome::failed,
                                     system_clock().now());
        }
        release(index);
        if (op.status != fabric::ReadStatus::cancelled) {
            const Holder& holder = holders_[op.holder];
            const auto& fabric = *parts_.io.fabrics()[holder.fabric];
            const std::string reason = fabric.link_error(op.page ? holder.page_link : holder.link);
            lose_holder(op.holder, fmt::format("{}{}{}", to_string(op.status),
                                               reason.empty() ? "" : ": ", reason));
        }
    } else if (op.page) {
        page_arrived(op);
        release(index);
    } else {
        chunk_arrived(index);
    }
    if (op.page) return;
    // A second copy may have waited until nobody writes in its place any more.
    if (written_in_place(op.chunk)) return;
    for (std::uint32_t other = 0; other < ops_.size(); ++other) {
        const Op& waiting = ops_[other];
        if (waiting.busy && waiting.waiting && waiting.chunk == op.chunk) {
            ops_[other].waiting = false;
            verify(other);
        }
    }
}

void PullSession::page_arrived(const Op& op) {
    Holder& holder = holders_[op.holder];
    auto page = parse_page(holder.page.pages.span(), manifest_.layout.chunk_count());
    if (!page) return lose_holder(op.holder, page.error().message);
    if (page.value().incarnation != holder.hint.incarnation) {
        return lose_holder(op.holder, "its availability page is of another incarnation");
    }
    const bool moved = holder.generation != 0 && holder.generation != page.value().generation;
    if (moved || page.value().state == PageState::withdrawn) {
        return lose_holder(op.holder, "it has withdrawn the version");
    }
    holder.generation = page.value().generation;
    scheduler_.on_page(op.holder, page.value(), system_clock().now());
}

bool PullSession::written_in_place(std::uint32_t chunk) const {
    return in_place_ && std::ranges::any_of(ops_, [chunk](const Op& op) {
               return op.busy && !op.page && op.chunk == chunk && op.slot == kInPlace &&
                      op.pending > 0;
           });
}

void PullSession::chunk_arrived(std::uint32_t index) {
    const Op op = ops_[index];
    const std::uint64_t bytes = manifest_.layout.chunk_range(op.chunk).bytes;
    statistics_.bytes_read += bytes;
    statistics_.shares[holders_[op.holder].share].bytes += bytes;
    if (!scheduler_.on_chunk_read(op.holder, op.chunk, ReadOutcome::ok, system_clock().now())) {
        return release(index);
    }
    if (op.slot != kInPlace && written_in_place(op.chunk)) {
        // A slower copy is still being written to the chunk's place: stop that first.
        ops_[index].waiting = true;
        for (std::uint32_t other = 0; other < ops_.size(); ++other) {
            const Op& slow = ops_[other];
            const bool same = slow.busy && other != index && !slow.page && slow.chunk == op.chunk;
            if (same && slow.pending > 0) {
                lose_holder(slow.holder, "slower than another holder");
            }
        }
        return;
    }
    verify(index);
}

void PullSession::verify(std::uint32_t index) {
    ++jobs_in_flight_;
    const Op& op = ops_[index];
    const std::uint32_t chunk = op.chunk;
    const std::span<std::byte> bytes = bytes_of(op);
    Stored stored;
    if (bytes.size() <= kIdleBytesMax &&
        parts_.io.run_if_idle([&] { stored = store_if_right(chunk, bytes); })) {
        return on_verdict(index, stored);
    }
    parts_.workers.post([self = shared_from_this(), index, chunk, bytes] {
        self->parts_.io.post([self, index, stored = self->store_if_right(chunk, bytes)] {
            self->on_verdict(index, stored);
        });
    });
}

// On any thread.
PullSession::Stored PullSession::store_if_right(std::uint32_t chunk,
                                                std::span<const std::byte> bytes) {
    if (model::digest_chunk(bytes) != manifest_.chunk_digests[chunk]) return {false, success()};
    auto stored = parts_.destination->store(chunk, bytes);
    if (stored) parts_.held->set_chunk(chunk);
    return {true, std::move(stored)};
}

void PullSession::on_verdict(std::uint32_t index, const Stored& stored) {
    --jobs_in_flight_;
    const Op op = ops_[index];
    release(index);
    if (!stored.done) return fail(stored.done.error());
    scheduler_.on_chunk_verdict(op.holder, op.chunk,
                                stored.right ? Verdict::verified : Verdict::corrupt);
    const Holder& holder = holders_[op.holder];
    if (stored.right) {
        last_progress_ = system_clock().now();
        const std::uint64_t bytes = manifest_.layout.chunk_range(op.chunk).bytes;
        statistics_.bytes_verified += bytes;
        bytes_verified_ += bytes;
        return;
    }
    ++statistics_.corrupt_chunks;
    last_trouble_ =
        fmt::format("chunk {} from {} does not match its digest", op.chunk, holder.hint.name);
    log(LogLevel::warning, "{}; reading it again", last_trouble_);
    report(holder, registry::ReportKind::corrupt, last_trouble_);
}

void PullSession::release(std::uint32_t index) {
    Op& op = ops_[index];
    if (!op.page && op.slot != kInPlace) free_buffers_.push_back(op.slot);
    op.busy = false;
    free_ops_.push_back(index);
    --ops_in_flight_;
}

}  // namespace weightcast::agent
