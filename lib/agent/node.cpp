#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "agent/node_impl.h"
#include "base/hex.h"
#include "base/log.h"
#include "registry/client.h"

namespace weightcast {

Result<std::unique_ptr<Node>> Node::start(const NodeOptions& options) {
    auto node = std::make_unique<agent::NodeImpl>();
    WEIGHTCAST_CHECK(node->open(options));
    return std::unique_ptr<Node>(std::move(node));
}

namespace agent {
namespace {

constexpr int kVersionRaces = 8;

// A checkpoint may have more files than the usual soft limit of open descriptors.
void raise_descriptor_limit() {
    ::rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

std::string host_name() {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) return "host";
    std::string text = name.data();
    for (char& c : text) {
        const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
        if (!plain) c = '-';
    }
    return text.empty() || text[0] == '-' ? "host" : text;
}

}  // namespace

Result<void> NodeImpl::open(const NodeOptions& options) {
    if (options.open_fabrics == nullptr) {
        return Error{Code::invalid_input, 0, "NodeOptions::open_fabrics is not set"};
    }
    raise_descriptor_limit();
    incarnation_ = random_identity();
    const std::string host = host_name();
    name_ = options.name;
    if (name_.empty()) {
        const auto random = to_hex(std::span(incarnation_).first(3));
        name_ = fmt::format("{}-{}-{}", host, ::getpid(), random);
    }
    WEIGHTCAST_CHECK(model::check_plain_name(name_));
    fabric::FabricOptions fabric_options;
    fabric_options.incarnation = incarnation_;
    fabric_options.listen = options.listen;
    fabric_options.serve_rate_max = options.serve_rate_max;
    fabric_options.devices = options.devices;
    fabric_options.traffic_class = options.traffic_class;
    fabric_options.out_of_band = options.out_of_band;
    WEIGHTCAST_TRY(auto fabrics,
                   options.open_fabrics(options.fabrics, options.fabrics_besides, fabric_options));
    registry::PeerInfo info;
    info.name = name_;
    info.host = host;
    info.incarnation = incarnation_;
    info.take_over = options.take_over;
    info.serve_rate_max = options.serve_rate_max;
    labels_ = options.labels;
    info.labels = options.labels;
    info.port_rate = options.port_rate;
    for (const auto& fabric : fabrics) {
        info.addresses[fabric->name()] = fabric->address();
        if (options.port_rate == 0) info.port_rate = std::max(info.port_rate, fabric->port_rate());
    }
    registry_.url = options.registry;
    if (!options.token_file.empty()) {
        WEIGHTCAST_TRY(registry_.token, registry::read_token_file(options.token_file));
    }
    WEIGHTCAST_TRY(auto api, registry::connect(registry_));
    WEIGHTCAST_TRY(membership_, Membership::join(std::move(api), std::move(info)));
    workers_ = std::make_unique<WorkerPool>(usable_cores());
    io_ = std::make_unique<IoThread>(std::move(fabrics));
    return success();
}

NodeImpl::~NodeImpl() {
    membership_.reset();
    for (const auto& held : held_) held->withdraw();
    held_.clear();
    deltas_.clear();
    stopped_.reset();
    workers_.reset();
    io_.reset();
}

void NodeImpl::remember(std::shared_ptr<HeldVersion> held) {
    HeldVersions replaced;
    {
        const std::lock_guard lock(mutex_);
        std::ranges::copy_if(held_, std::back_inserter(replaced), [&held](const auto& other) {
            return held->offered() && other->pulled() && other->named().name == held->named().name;
        });
        held_.push_back(std::move(held));
    }
    for (const auto& older : replaced) let_go(older);
}

bool NodeImpl::let_go(const std::shared_ptr<HeldVersion>& held,
                      std::chrono::milliseconds readers_wait) {
    if (!held) return true;
    {
        const std::lock_guard lock(mutex_);
        std::erase(held_, held);
    }
    if (held->withdrawn()) return true;
    const auto unread = membership_->drop(held, readers_wait);
    return unread && unread.value();
}

Result<void> NodeImpl::give_up(const std::shared_ptr<HeldVersion>& held) {
    if (held && !held->withdrawn()) {
        const auto dropped = membership_->drop(held, {}, true);
        if (!dropped && dropped.error().code == Code::conflict) return dropped.error();
    }
    let_go(held);
    return success();
}

HeldVersions NodeImpl::pulled_versions(const std::string& model) const {
    HeldVersions found;
    const std::lock_guard lock(mutex_);
    std::ranges::copy_if(held_, std::back_inserter(found), [&model](const auto& held) {
        return held->pulled() && held->manifest().model == model;
    });
    if (stopped_ && stopped_->manifest().model == model) found.push_back(stopped_);
    return found;
}

Result<registry::ModelInfo> NodeImpl::find_model(const std::string& name) {
    auto known = membership_->call(
        [&](registry::Api& api, const registry::PeerRef&) { return api.find_model(name); });
    if (!known && known.error().code == Code::not_found) return registry::ModelInfo{name, {}, {}};
    return known;
}

Result<std::uint64_t> NodeImpl::pick_version(const model::Manifest& manifest) {
    WEIGHTCAST_TRY(const registry::ModelInfo known, find_model(manifest.model));
    if (known.versions.empty()) return std::uint64_t{1};
    const registry::VersionInfo& newest = known.versions.back();
    const bool same = name_manifest(manifest, newest.version).name == newest.manifest;
    return same ? newest.version : newest.version + 1;
}

Result<Published> NodeImpl::publish_draft(const Draft& draft, const PublishOptions& options,
                                          std::shared_ptr<HeldVersion>* offered) {
    WEIGHTCAST_CHECK(model::check_manifest(draft.manifest));
    for (int attempt = 1;; ++attempt) {
        std::uint64_t version = options.version;
        if (version == 0) {
            WEIGHTCAST_TRY(version, pick_version(draft.manifest));
        }
        Material material;
        material.named = name_manifest(draft.manifest, version);
        material.memory = draft.memory;
        material.owner = draft.owner;
        material.channel = options.channel;
        material.check_source = draft.check_source;
        material.registration = draft.registration;
        WEIGHTCAST_TRY(const auto held, HeldVersion::create(*io_, material, incarnation_, 1));
        WEIGHTCAST_CHECK(held->register_all());
        held->page().set_all();
        const auto reply = membership_->publish(held);
        if (!reply) {
            held->withdraw();
            // Another publisher was first with this number: take the next one.
            const bool race = reply.error().code == Code::conflict && options.version == 0;
            if (race && attempt < kVersionRaces) continue;
            return reply.error();
        }
        remember(held);
        if (offered != nullptr) *offered = held;
        return Published{options.model,
                         version,
                         held->manifest().layout.total_bytes(),
                         reply.value().generation,
                         reply.value().created,
                         model::to_string(held->named().name),
                         held->registration_seconds()};
    }
}

std::deque<std::shared_ptr<HeldVersion>>& NodeImpl::deltas_of(const std::string& model) {
    const std::lock_guard lock(mutex_);
    return file_deltas_[model];
}

Result<Published> NodeImpl::publish(std::span<const std::string> paths,
                                    const PublishOptions& options) {
    WEIGHTCAST_TRY(const Draft draft, draft_from_files(paths, options));
    if (options.deltas_from.empty()) return publish_draft(draft, options);
    for (int attempt = 1;; ++attempt) {
        PublishOptions numbered = options;
        if (options.version == 0) {
            WEIGHTCAST_TRY(numbered.version, pick_version(draft.manifest));
        }
        // First, so that nobody is told of the version who cannot have its deltas.
        WEIGHTCAST_TRY(const auto deltas, publish_deltas(draft, numbered));
        auto published = publish_draft(draft, numbered);
        if (!published) {
            let_go(deltas);
            const bool race = published.error().code == Code::conflict && options.version == 0;
            if (race && attempt < kVersionRaces) continue;
            return published;
        }
        if (deltas) published.value().delta_bytes = deltas->manifest().layout.total_bytes();
        keep_deltas(deltas, deltas_of(options.model), kDeltasOffered);
        return published;
    }
}

Result<Published> NodeImpl::publish(std::span<const TensorView> tensors,
                                    const PublishOptions& options) {
    if (!options.deltas_from.empty()) return deltas_of_files_only();
    WEIGHTCAST_TRY(const auto memory, TensorMemory::make(tensors));
    WEIGHTCAST_TRY(const Draft draft, memory->draft(options));
    return publish_draft(draft, options);
}

Result<void> NodeImpl::withdraw(const std::string& model, std::uint64_t version,
                                const WithdrawOptions& options) {
    std::shared_ptr<HeldVersion> held;
    {
        const std::lock_guard lock(mutex_);
        const auto found = std::find_if(held_.begin(), held_.end(), [&](const auto& candidate) {
            return candidate->manifest().model == model && candidate->manifest().version == version;
        });
        if (found == held_.end()) {
            return Error{Code::not_found, 0,
                         fmt::format("{}@{} is not served here", model, version)};
        }
        held = *found;
    }
    WEIGHTCAST_CHECK(membership_->drop(held, options.readers_wait, !options.even_last));
    let_go(held);
    return success();
}

void NodeImpl::cancel_pulls() {
    const std::lock_guard lock(mutex_);
    ++cancels_;
    for (const auto& weak : sessions_) {
        if (const auto session = weak.lock()) session->cancel();
    }
}

std::uint64_t NodeImpl::bytes_served() const {
    return io_->call([this] {
        std::uint64_t bytes = 0;
        for (const auto& fabric : io_->fabrics()) bytes += fabric->bytes_served();
        return bytes;
    });
}

}  // namespace agent
}  // namespace weightcast
