// Limits on what comes from outside, checked before the state machine sees it. Every error is
// invalid_input and names the field and the limit. Reentrant.
#pragma once

#include <string>

#include "registry/messages.h"
#include "weightcast/result.h"

namespace weightcast::registry {

inline constexpr std::size_t kNameBytesMax = 256;
inline constexpr std::size_t kTextBytesMax = 4096;
inline constexpr std::size_t kFabricsMax = 16;
inline constexpr std::size_t kAddressBytesMax = 65536;
inline constexpr std::size_t kLabelsMax = 64;
inline constexpr std::size_t kRegionsMax = 65536;
inline constexpr std::size_t kKeyBytesMax = 65536;
inline constexpr std::size_t kExtentsMax = 1U << 20U;
inline constexpr std::size_t kBucketsMax = 1U << 24U;
inline constexpr std::size_t kProgressMax = 256;
inline constexpr std::size_t kAvoidMax = 4096;
inline constexpr std::uint64_t kManifestBytesMax = 256ULL << 20U;

// A model, peer or host: 1 to kNameBytesMax visible ASCII characters, for a model without '@' and
// ':', which begin a reference. A channel: letters, digits, '.', '_', '-', at most 64.
Result<void> check_model_name(const std::string& name);
Result<void> check_channel_name(const std::string& name);

Result<void> check(const PeerInfo& info);
Result<void> check(const Heartbeat& heartbeat);
Result<void> check(const PublishRequest& request);
Result<void> check(const Holding& holding);
Result<void> check(const PullRequest& request);
Result<void> check(const RenewRequest& request);
Result<void> check(const HolderReport& report);
Result<void> check(const SetChannelRequest& request);

}  // namespace weightcast::registry
