// A trainer's tensors: registered once, published as often as they change.
#include "weightcast/tensor_source.h"

#include <deque>
#include <utility>

#include "agent/deltas.h"
#include "agent/node_impl.h"
#include "base/log.h"

namespace weightcast::agent {
namespace {

class OwnTensors final : public TensorSource {
  public:
    OwnTensors(NodeImpl& node, std::shared_ptr<TensorMemory> memory, const SourceOptions& options)
        : node_(node), memory_(std::move(memory)), options_(options) {}
    ~OwnTensors() override {
        if (offered_) node_.let_go(offered_);
        for (const auto& deltas : deltas_) node_.let_go(deltas);
    }

    Result<void> register_memory() {
        WEIGHTCAST_TRY(registration_, Registration::make(node_.io(), memory_->memory()));
        return success();
    }

    bool begin_update(std::chrono::milliseconds readers_wait) override {
        if (!offered_) return true;
        // Of readers of what somebody else withdrew nothing is known.
        const bool known = !offered_->withdrawn();
        const bool unread = node_.let_go(offered_, readers_wait) && known;
        if (!unread) {
            log(LogLevel::warning, "{}@{} changes while replicas may still be reading it",
                offered_->manifest().model, offered_->manifest().version);
            // Keys that somebody may still read with must not lead to other bytes.
            registration_.reset();
            cut_off_ = true;
        }
        offered_.reset();
        return unread;
    }

    Result<Published> publish(const PublishOptions& options,
                              const std::optional<std::vector<std::string>>& changed) override {
        if (!options.deltas_from.empty()) return deltas_of_files_only();
        begin_update({});
        WEIGHTCAST_TRY(Draft draft,
                       memory_->draft(options, before_.get(), changed ? &*changed : nullptr));
        before_ = std::make_shared<const model::Manifest>(draft.manifest);
        if (!registration_) WEIGHTCAST_CHECK(register_memory());
        draft.registration = registration_;
        PublishOptions numbered = options;
        std::shared_ptr<HeldVersion> deltas;
        if (options_.deltas) {
            WEIGHTCAST_TRY(deltas, publish_deltas(draft, numbered));
        }
        auto outcome = node_.publish_draft(draft, numbered, &offered_);
        if (!outcome) {
            node_.let_go(deltas);
            return outcome;
        }
        Published published = std::move(outcome).value();
        if (deltas) published.delta_bytes = deltas->manifest().layout.total_bytes();
        node_.keep_deltas(deltas, deltas_, kDeltasOffered);
        published.cut_off = std::exchange(cut_off_, false);
        return published;
    }

  private:
    // Before the version itself, so that nobody is told of it who cannot have its deltas. Gives it
    // its number. Null if there are none.
    Result<std::shared_ptr<HeldVersion>> publish_deltas(const Draft& draft,
                                                        PublishOptions& options) {
        if (options.version == 0) {
            WEIGHTCAST_TRY(options.version, node_.pick_version(draft.manifest));
        }
        const NamedManifest named = name_manifest(draft.manifest, options.version);
        const std::uint64_t from = std::exchange(base_version_, options.version);
        const auto read = [&](std::uint32_t chunk,
                              std::span<std::byte> to) -> Result<std::span<const std::byte>> {
            memory_->read(named.manifest->layout.chunk_range(chunk).offset, to);
            return std::span<const std::byte>(to);
        };
        WEIGHTCAST_TRY(const auto set, base_.update(*named.manifest, read));
        if (!set || from == options.version) return std::shared_ptr<HeldVersion>();
        return node_.publish_delta_set(*set, from, options);
    }

    NodeImpl& node_;
    std::shared_ptr<TensorMemory> memory_;
    std::shared_ptr<Registration> registration_;
    std::shared_ptr<HeldVersion> offered_;
    std::shared_ptr<const model::Manifest> before_;  // of the last draft
    const SourceOptions options_;
    bool cut_off_ = false;  // readers of what was published last
    DeltaBase base_;
    std::uint64_t base_version_ = 0;
    std::deque<std::shared_ptr<HeldVersion>> deltas_;  // that are served, the last one last
};

}  // namespace

Result<std::unique_ptr<TensorSource>> NodeImpl::open_source(std::span<const TensorView> tensors,
                                                            const SourceOptions& options) {
    WEIGHTCAST_TRY(auto memory, TensorMemory::make(tensors));
    auto source = std::make_unique<OwnTensors>(*this, std::move(memory), options);
    WEIGHTCAST_CHECK(source->register_memory());
    return std::unique_ptr<TensorSource>(std::move(source));
}

}  // namespace weightcast::agent
