// Tensors that a trainer publishes where they lie, again and again as they change.
//
//   auto source = node->open_source(tensors);
//   for (;;) {
//       source.value()->begin_update(5s);  // no reader is left, or those left are refused
//       optimizer.step();
//       source.value()->publish({.model = "policy"});
//   }
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "weightcast/node.h"
#include "weightcast/result.h"

namespace weightcast {

// The memory is registered with the transports once, and stays so until this object is destroyed:
// it must live so long. One thread at a time.
class TensorSource {
  public:
    // Stops serving and releases the memory. Readers are refused from then on.
    virtual ~TensorSource() = default;
    // Stops serving the version that was published last: after this the tensors may be written to.
    // Nobody new is sent here; readers may finish, or turn to others, within `readers_wait`. Those
    // that did not are refused by revoking the registration, which the next publish() then makes
    // again. True: none was left.
    virtual bool begin_update(std::chrono::milliseconds readers_wait) = 0;
    // Publishes the tensors as they are now, after begin_update() if that was done before; else it
    // is done first, without waiting. `changed` names the tensors that were written to since the
    // last publish(): digests of the others are not computed again. Nothing given: all were.
    // Errors: as Node::publish(); not_found (a name).
    virtual Result<Published> publish(
        const PublishOptions& options,
        const std::optional<std::vector<std::string>>& changed = std::nullopt) = 0;
};

}  // namespace weightcast
