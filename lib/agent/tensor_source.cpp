// A trainer's tensors: registered once, published as often as they change.
#include "weightcast/tensor_source.h"

#include "agent/node_impl.h"

namespace weightcast::agent {
namespace {

class OwnTensors final : public TensorSource {
  public:
    OwnTensors(NodeImpl& node, std::shared_ptr<TensorMemory> memory)
        : node_(node), memory_(std::move(memory)) {}
    ~OwnTensors() override { begin_update({}); }

    Result<void> register_memory() {
        WEIGHTCAST_TRY(registration_, Registration::make(node_.io(), memory_->memory()));
        return success();
    }

    bool begin_update(std::chrono::milliseconds readers_wait) override {
        if (!offered_) return true;
        const bool unread = node_.let_go(offered_, readers_wait);
        offered_.reset();
        // Keys that somebody may still read with must not lead to other bytes.
        if (!unread) registration_.reset();
        return unread;
    }

    Result<Published> publish(const PublishOptions& options,
                              const std::optional<std::vector<std::string>>& changed) override {
        begin_update({});
        WEIGHTCAST_TRY(Draft draft,
                       memory_->draft(options, before_.get(), changed ? &*changed : nullptr));
        before_ = std::make_shared<const model::Manifest>(draft.manifest);
        if (!registration_) WEIGHTCAST_CHECK(register_memory());
        draft.registration = registration_;
        return node_.publish_draft(draft, options, &offered_);
    }

  private:
    NodeImpl& node_;
    std::shared_ptr<TensorMemory> memory_;
    std::shared_ptr<Registration> registration_;
    std::shared_ptr<HeldVersion> offered_;
    std::shared_ptr<const model::Manifest> before_;  // of the last draft
};

}  // namespace

Result<std::unique_ptr<TensorSource>> NodeImpl::open_source(std::span<const TensorView> tensors) {
    WEIGHTCAST_TRY(auto memory, TensorMemory::make(tensors));
    auto source = std::make_unique<OwnTensors>(*this, std::move(memory));
    WEIGHTCAST_CHECK(source->register_memory());
    return std::unique_ptr<TensorSource>(std::move(source));
}

}  // namespace weightcast::agent
