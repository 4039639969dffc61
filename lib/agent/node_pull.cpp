// The life of one pull, from a name to a report.
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <future>
#include <numeric>
#include <thread>

#include "agent/node_impl.h"
#include "agent/rates.h"
#include "base/log.h"
#include "plan/bound.h"

namespace weightcast::agent {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(200);
constexpr auto kOfferWait = std::chrono::milliseconds(100);  // for the memory to be registered
constexpr std::uint32_t kHoldersAtFirst = 4;                 // of whom one has the manifest
constexpr auto kManifestWait = std::chrono::seconds(60);     // for somebody to hand it on

// What became of offering what is pulled. `needed`: without that there is no pull.
Result<void> settle(std::future<Result<void>>& offered, bool needed) {
    Result<void> done = offered.get();
    if (done || needed) return done;
    log(LogLevel::warning, "not serving what is pulled: {}", done.error().message);
    return success();
}

std::vector<std::uint32_t> without(std::span<const std::uint32_t> chunks,
                                   std::span<const std::uint32_t> less) {
    std::vector<std::uint32_t> left;
    std::ranges::set_difference(chunks, less, std::back_inserter(left));
    return left;
}

class PulledArena final : public PulledMemory {
  public:
    explicit PulledArena(NodeImpl::Arena arena) : arena_(std::move(arena)) {}

    const PullReport& report() const override { return arena_.report; }
    std::vector<TensorView> tensors() const override { return arena_.tensors; }
    Result<TensorView> tensor(const std::string& name) const override {
        const auto found = std::ranges::lower_bound(arena_.tensors, name, {}, &TensorView::name);
        if (found != arena_.tensors.end() && found->name == name) return *found;
        return Error{Code::not_found, 0, fmt::format("there is no tensor {}", name)};
    }

  private:
    NodeImpl::Arena arena_;
};

// The tensors of `chosen`, or all if it is empty, by name.
std::vector<TensorView> views_of(const model::Manifest& manifest, const MemoryDestination& memory,
                                 std::span<const std::uint32_t> chosen) {
    std::vector<TensorView> views;
    const auto add = [&](const model::TensorRecord& tensor) {
        views.push_back({tensor.name, std::string(model::name_of(tensor.dtype)), tensor.shape,
                         memory.view(tensor.artifact, tensor.offset, tensor.bytes)});
    };
    for (const std::uint32_t index : chosen) add(manifest.tensors[index]);
    if (chosen.empty()) std::ranges::for_each(manifest.tensors, add);
    return views;
}

// By chunk: what a version had in its arena, if chunks lie in the same places in `manifest`'s.
std::vector<std::optional<model::Digest>> held_digests(const std::shared_ptr<HeldVersion>& held,
                                                       const model::Manifest& manifest) {
    if (!held || held->manifest().layout.chunk_bytes() != manifest.layout.chunk_bytes()) return {};
    const auto& all = held->manifest().chunk_digests;
    std::vector<std::optional<model::Digest>> digests(all.size());
    for (std::uint32_t chunk = 0; chunk < all.size(); ++chunk) {
        if (held->page().has(chunk)) digests[chunk] = all[chunk];
    }
    return digests;
}

Result<std::vector<std::uint32_t>> choose_tensors(const model::Manifest& manifest,
                                                  const std::vector<std::string>& globs) {
    std::vector<std::uint32_t> chosen;
    for (std::uint32_t i = 0; i < manifest.tensors.size(); ++i) {
        const std::string& name = manifest.tensors[i].name;
        const bool wanted = std::any_of(globs.begin(), globs.end(), [&](const std::string& glob) {
            return ::fnmatch(glob.c_str(), name.c_str(), 0) == 0;
        });
        if (wanted) chosen.push_back(i);
    }
    if (!chosen.empty()) return chosen;
    return Error{Code::not_found, 0,
                 fmt::format("no tensor of {}@{} matches {}", manifest.model, manifest.version,
                             fmt::join(globs, ", "))};
}

Result<void> check_expected(const model::Manifest& manifest,
                            const std::vector<TensorView>& expected) {
    for (const TensorView& wanted : expected) {
        const std::int64_t index = manifest.find_tensor(wanted.name);
        if (index < 0) {
            return Error{Code::invalid_input, 0,
                         fmt::format("{}@{} has no tensor {}", manifest.model, manifest.version,
                                     wanted.name)};
        }
        const auto& tensor = manifest.tensors[static_cast<std::size_t>(index)];
        const std::string_view dtype = model::name_of(tensor.dtype);
        if (dtype == wanted.dtype && tensor.shape == wanted.shape) continue;
        return Error{
            Code::invalid_input, 0,
            fmt::format("tensor {} of {}@{} is {}[{}], expected {}[{}]", wanted.name,
                        manifest.model, manifest.version, dtype, fmt::join(tensor.shape, ","),
                        wanted.dtype, fmt::join(wanted.shape, ","))};
    }
    return success();
}

}  // namespace

Result<NodeImpl::Resolved> NodeImpl::resolve(const PullOptions& options) {
    Resolved resolved;
    resolved.started = system_clock().now();
    {
        const std::lock_guard lock(mutex_);
        resolved.cancels = cancels_;
    }
    WEIGHTCAST_CHECK(model::check_model_name(options.model));
    WEIGHTCAST_TRY(
        resolved.grant, membership_->call([&](registry::Api& api, const registry::PeerRef& peer) {
            return api.open_pull({peer, options.model, options.reference, kHoldersAtFirst});
        }));
    resolved.lease = Lease(*membership_, resolved.grant.pull);
    if (options.bytes_max != 0 && resolved.grant.version.bytes > options.bytes_max) {
        return Error{Code::invalid_input, 0,
                     fmt::format("{}@{} has {} bytes, bytes_max is {}", options.model,
                                 resolved.grant.version.version, resolved.grant.version.bytes,
                                 options.bytes_max)};
    }
    await_manifest(resolved, options.stop);
    WEIGHTCAST_TRY(resolved.named, fetch_manifest(resolved.grant, options));
    tell_of_manifest(resolved.grant);
    const model::Manifest& manifest = *resolved.named.manifest;
    WEIGHTCAST_CHECK(check_expected(manifest, options.expected));
    if (options.tensors.empty()) {
        resolved.wanted.resize(manifest.layout.chunk_count());
        std::iota(resolved.wanted.begin(), resolved.wanted.end(), 0U);
    } else {
        WEIGHTCAST_TRY(resolved.tensors, choose_tensors(manifest, options.tensors));
        resolved.wanted = model::chunks_of_tensors(manifest, resolved.tensors, false);
    }
    return resolved;
}

// Until the registry says who hands out the manifest. Who has waited for very long asks the
// registry for it itself.
void NodeImpl::await_manifest(Resolved& resolved, const std::stop_token& stop) {
    const TimePoint end = system_clock().now() + kManifestWait;
    while (resolved.grant.manifest_ms != 0) {
        if (stop.stop_requested() || system_clock().now() >= end) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(resolved.grant.manifest_ms));
        auto grant = membership_->call([&](registry::Api& api, const registry::PeerRef& peer) {
            registry::RenewRequest request{peer, resolved.grant.pull, {}, kHoldersAtFirst};
            request.manifest = true;
            return api.renew_pull(request);
        });
        if (!grant || grant.value().version.root != resolved.grant.version.root) return;
        resolved.grant = std::move(grant).value();
    }
}

// So that another may have this reader's turn: preparing memory, and looking at what an earlier
// attempt left, may take long.
void NodeImpl::tell_of_manifest(const registry::Grant& grant) {
    if (grant.version.manifest_bytes < registry::kManifestTurnBytes) return;
    membership_->post([pull = grant.pull](Membership& membership) {
        static_cast<void>(membership.call([&](registry::Api& api, const registry::PeerRef& peer) {
            registry::RenewRequest request{peer, pull, {}};
            request.has_manifest = true;
            return api.renew_pull(request);
        }));
    });
}

// From a holder if one answers, since thousands may ask at once; else from the registry.
Result<NamedManifest> NodeImpl::fetch_manifest(const registry::Grant& grant,
                                               const PullOptions& options) {
    const model::Sha256& name = grant.version.manifest;
    const auto check = [&](std::vector<std::byte> encoded) -> Result<NamedManifest> {
        if (model::sha256(encoded) != name) {
            return Error{
                Code::corrupt, 0,
                fmt::format("the manifest does not match its name {}", model::to_string(name))};
        }
        WEIGHTCAST_TRY(auto manifest, model::decode_manifest(encoded));
        const bool same = manifest.model == grant.version.model &&
                          manifest.version == grant.version.version &&
                          manifest.root() == grant.version.root;
        if (!same) {
            return Error{Code::corrupt, 0,
                         fmt::format("manifest {} is not of {}@{}", model::to_string(name),
                                     grant.version.model, grant.version.version)};
        }
        return NamedManifest{std::make_shared<const model::Manifest>(std::move(manifest)),
                             std::move(encoded), name};
    };
    const std::uint64_t bytes_max = model::ManifestLimits().encoded_bytes_max;
    if (grant.version.manifest_bytes > bytes_max) {
        return Error{Code::invalid_input, 0,
                     fmt::format("the manifest has {} bytes, the limit is {}",
                                 grant.version.manifest_bytes, bytes_max)};
    }
    constexpr std::size_t kHoldersAsked = 2;
    const auto& fabrics = io_->fabrics();
    const std::size_t asked = std::min(grant.holders.size(), kHoldersAsked);
    const auto& only = options.fabrics;
    for (std::size_t h = 0; h < asked; ++h) {
        const registry::HolderHint& hint = grant.holders[h];
        for (std::size_t i = 0; i < fabrics.size(); ++i) {
            const std::string fabric = fabrics[i]->name();
            const auto keys = hint.holding.keys.find(fabric);
            const auto address = hint.addresses.find(fabric);
            const bool allowed =
                only.empty() || std::find(only.begin(), only.end(), fabric) != only.end();
            if (!allowed || keys == hint.holding.keys.end() || keys->second.manifest.empty() ||
                address == hint.addresses.end() || !fabrics[i]->can_reach(address->second)) {
                continue;
            }
            auto encoded = read_remote(*io_, i, {address->second, hint.incarnation},
                                       keys->second.manifest, grant.version.manifest_bytes);
            if (encoded) {
                if (auto named = check(std::move(encoded).value())) return named;
            }
            break;
        }
    }
    WEIGHTCAST_TRY(auto encoded,
                   membership_->call([&](registry::Api& api, const registry::PeerRef&) {
                       return api.get_manifest(name);
                   }));
    return check(std::move(encoded));
}

Result<void> NodeImpl::run_session(const std::shared_ptr<PullSession>& session,
                                   const Resolved& resolved, const PullOptions& options,
                                   std::uint64_t bytes_before) {
    {
        const std::lock_guard lock(mutex_);
        std::erase_if(sessions_, [](const auto& weak) { return weak.expired(); });
        if (cancels_ != resolved.cancels || options.stop.stop_requested()) {
            return Error{Code::cancelled, 0, "the pull was cancelled"};
        }
        sessions_.push_back(session);
    }
    const std::uint64_t total = bytes_of(resolved.named.manifest->layout, resolved.wanted);
    auto done = session->start(resolved.grant);
    const std::stop_callback stopping(options.stop, [&session] { session->cancel(); });
    // The session is in use until it has ended, whatever a callback throws.
    try {
        for (bool ended = false; !ended;) {
            ended = done.wait_for(kProgressInterval) == std::future_status::ready;
            if (!options.on_progress) continue;
            options.on_progress({total, bytes_before + session->bytes_verified(),
                                 session->holders(),
                                 seconds(system_clock().now() - resolved.started)});
        }
    } catch (...) {
        session->cancel();
        done.wait();
        throw;
    }
    return done.get();
}

void NodeImpl::await_plan(Resolved& resolved) {
    for (std::uint32_t waits = 0; waits < kPlanWaitsMax; ++waits) {
        auto grant = membership_->call([&](registry::Api& api, const registry::PeerRef& peer) {
            return api.renew_pull({peer, resolved.grant.pull, {}, kHoldersMax});
        });
        // A registry that does not answer now may do so later: the session asks again.
        if (!grant || grant.value().version.root != resolved.grant.version.root) return;
        const auto wait = wait_for_hints(grant.value());
        if (!wait) {
            resolved.grant = std::move(grant).value();
            return;
        }
        std::this_thread::sleep_for(*wait);
    }
}

Result<void> NodeImpl::offer(const std::shared_ptr<HeldVersion>& held, const PullOptions& options) {
    if (!options.serve) return success();
    WEIGHTCAST_CHECK(held->register_all());
    return membership_->hold(held);
}

Result<void> NodeImpl::transfer(Resolved& resolved, const std::shared_ptr<Destination>& destination,
                                const std::shared_ptr<HeldVersion>& in_place_before,
                                const PullOptions& options, Pulled& pulled) {
    Material material;
    material.named = resolved.named;
    material.memory = destination->memory();
    material.owner = destination;
    material.pulled = true;
    WEIGHTCAST_TRY(pulled.held, HeldVersion::create(*io_, material, incarnation_, 1));
    const auto& present = destination->present();
    for (const std::uint32_t chunk : present) pulled.held->page().set(chunk);
    // What is read in place is registered before. Files are only registered to serve them, which
    // need not keep the first chunks waiting.
    const bool in_place = !resolved.wanted.empty() && !destination->in_place(0).empty();
    auto offered = std::async(std::launch::async, [&] { return offer(pulled.held, options); });
    if (in_place) offered.wait();
    if (offered.wait_for(kOfferWait) == std::future_status::ready) {
        WEIGHTCAST_CHECK(settle(offered, in_place));
    }
    if (!resolved.wanted.empty()) await_plan(resolved);
    const model::Layout& layout = resolved.named.manifest->layout;
    std::vector<std::uint32_t> missing = without(resolved.wanted, present);
    Result<void> outcome = success();
    const auto take = [&](const Result<std::vector<std::uint32_t>>& chunks) {
        if (!chunks) {
            outcome = chunks.error();
            return std::uint64_t{0};
        }
        for (const std::uint32_t chunk : chunks.value()) pulled.held->set_chunk(chunk);
        missing = without(missing, chunks.value());
        return bytes_of(layout, chunks.value());
    };
    const std::uint64_t reused = take(
        take_over(*destination, *resolved.named.manifest, missing, pulled_versions(options.model)));
    const std::uint64_t patched =
        outcome
            ? take(patch(resolved, *destination, missing, in_place_before, options, pulled.report))
            : 0;
    PullSessionOptions session_options;
    session_options.fabrics = options.fabrics;
    session_options.no_holder_ms_max = options.no_holder_ms_max;
    const auto session = std::make_shared<PullSession>(
        PullSession::Parts{*io_, *membership_, *workers_, destination, pulled.held}, missing,
        session_options);
    if (outcome && !missing.empty()) {
        const std::uint64_t before = bytes_of(layout, present) + reused + patched;
        outcome = run_session(session, resolved, options, before);
        const std::uint64_t pull = session->statistics().pull;
        if (pull != 0) resolved.lease.replace(pull);
    }
    if (offered.valid()) static_cast<void>(settle(offered, false));
    if (outcome) outcome = destination->commit();
    if (!outcome) {
        if (options.serve) static_cast<void>(membership_->drop(pulled.held));
        return outcome.error();
    }
    if (options.serve) membership_->announce_progress();
    const std::uint64_t delta_bytes = pulled.report.delta_bytes;
    pulled.report = make_report(resolved, session->statistics(), options);
    pulled.report.delta_bytes = delta_bytes;
    pulled.report.bytes_read += delta_bytes;
    pulled.report.bytes_patched = patched;
    pulled.report.bytes_reused = reused + destination->bytes_shared();
    pulled.report.registration_seconds = pulled.held->registration_seconds();
    resolved.lease.close(&pulled.report);
    return success();
}

void NodeImpl::Lease::close(const PullReport* report) {
    if (membership_ == nullptr) return;
    registry::CloseRequest request;
    request.pull = pull_;
    if (report != nullptr) {
        request.completed = true;
        request.bytes_read = report->bytes_read;
        request.seconds = report->seconds;
        request.ratio = report->ratio;
    }
    std::exchange(membership_, nullptr)->post([request](Membership& membership) mutable {
        static_cast<void>(membership.call([&](registry::Api& api, const registry::PeerRef& peer) {
            request.peer = peer;
            return api.close_pull(request);
        }));
    });
}

PullReport NodeImpl::make_report(const Resolved& resolved, const PullStatistics& statistics,
                                 const PullOptions& options) const {
    PullReport report;
    const registry::Grant& grant = resolved.grant;
    report.model = grant.version.model;
    report.version = grant.version.version;
    report.generation = grant.generation;
    report.bytes = bytes_of(resolved.named.manifest->layout, resolved.wanted);
    report.bytes_read = statistics.bytes_read;
    report.corrupt_chunks = statistics.corrupt_chunks;
    report.holders_lost = statistics.holders_lost;
    report.seconds = seconds(system_clock().now() - resolved.started);
    plan::BoundInput input;
    input.bytes = statistics.bytes_verified;
    input.receiver_rate = options.link_rate_max;
    for (const Share& share : statistics.shares) {
        if (share.bytes == 0) continue;
        const double port =
            share.port_rate > 0 ? share.port_rate : port_rate_towards(share.address);
        if (port == 0 && options.link_rate_max == 0) input.copy_rate = memory_copy_rate();
        if (options.link_rate_max == 0) input.receiver_rate = std::max(input.receiver_rate, port);
        const auto known = std::find_if(
            report.holders.begin(), report.holders.end(), [&](const HolderShare& other) {
                return other.peer == share.peer && other.fabric == share.fabric;
            });
        if (known != report.holders.end()) {
            known->bytes += share.bytes;
        } else {
            input.holder_rates.push_back(share.rate_max);
            report.holders.push_back({share.peer, share.fabric, share.emulated, share.bytes});
        }
    }
    std::stable_sort(report.holders.begin(), report.holders.end(),
                     [](const HolderShare& a, const HolderShare& b) { return a.bytes > b.bytes; });
    const plan::Bound bound = plan::lower_bound(input);
    report.bound_seconds = bound.seconds;
    report.limited_by = statistics.bytes_read == 0 ? "nothing to read" : bound.limited_by;
    report.ratio = bound.seconds > 0 ? report.seconds / bound.seconds : 0;
    return report;
}

Result<PullReport> NodeImpl::pull(const PullOptions& options) {
    if (options.directory.empty()) {
        return Error{Code::invalid_input, 0, "PullOptions::directory is not set"};
    }
    WEIGHTCAST_TRY(Resolved resolved, resolve(options));
    const HeldVersions earlier = pulled_versions(options.model);
    const DirectoryOptions directory{options.replace, options.sync, resolved.tensors,
                                     resolved.wanted,
                                     same_files(*resolved.named.manifest, earlier)};
    WEIGHTCAST_TRY(auto destination, open_directory(options.directory, resolved.named.manifest,
                                                    resolved.named.name, directory));
    Pulled pulled;
    const std::shared_ptr<Destination> files = std::move(destination);
    const auto outcome = transfer(resolved, files, nullptr, options, pulled);
    if (!outcome) files->abandon();
    {
        // What a pull has that was stopped for a newer version may be of use for that one.
        const std::lock_guard lock(mutex_);
        stopped_ = !outcome && options.stop.stop_requested() ? pulled.held : nullptr;
    }
    WEIGHTCAST_CHECK(outcome);
    if (options.serve) remember(pulled.held);
    return pulled.report;
}

Result<void> NodeImpl::pull_into(const PullOptions& options, Arena& arena,
                                 const std::function<Result<void>()>& prepare) {
    WEIGHTCAST_TRY(Resolved resolved, resolve(options));
    WEIGHTCAST_CHECK(prepare());
    const auto there = held_digests(arena.held, *resolved.named.manifest);
    const std::shared_ptr<MemoryDestination> old = arena.memory;
    WEIGHTCAST_TRY(arena.memory,
                   MemoryDestination::create_in(arena.memory ? arena.memory->arena() : nullptr,
                                                there, resolved.named.manifest));
    arena.tensors = views_of(*resolved.named.manifest, *arena.memory, resolved.tensors);
    Pulled pulled;
    const auto before = old && old->arena() == arena.memory->arena() ? arena.held : nullptr;
    auto outcome = transfer(resolved, arena.memory, before, options, pulled);
    arena.held = std::move(pulled.held);
    arena.report = std::move(pulled.report);
    return outcome;
}

Result<std::unique_ptr<PulledMemory>> NodeImpl::pull_memory(const PullOptions& options) {
    Arena arena;
    WEIGHTCAST_CHECK(pull_into(options, arena, [] { return success(); }));
    if (options.serve) remember(arena.held);
    return std::make_unique<PulledArena>(std::move(arena));
}

Result<std::unique_ptr<PulledMemory>> NodeImpl::map_memory(const PullOptions& options) {
    WEIGHTCAST_TRY(Resolved resolved, resolve(options));
    const PullReport report = make_report(resolved, {}, options);
    auto mapped = map_holder(*io_, resolved.grant, resolved.named.manifest, report);
    if (mapped) resolved.lease.close(&report);
    return mapped;
}

}  // namespace weightcast::agent
