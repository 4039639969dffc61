#include "registry/canary.h"

#include <algorithm>
#include <span>

#include "model/digest.h"

namespace weightcast::registry {

std::uint64_t version_for(const ChannelInfo& channel, const std::string& name,
                          const std::map<std::string, std::string>& labels) {
    if (!channel.canary) return channel.version;
    const bool labelled = std::ranges::all_of(channel.canary->labels, [&](const auto& wanted) {
        const auto found = labels.find(wanted.first);
        return found != labels.end() && found->second == wanted.second;
    });
    const std::string text = channel.model + "/" + name;
    const model::Sha256 hash = model::sha256(std::as_bytes(std::span(text.data(), text.size())));
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        number = number << 8U | std::to_integer<std::uint64_t>(hash.bytes[i]);
    }
    const bool chosen = labelled && number % 100 < channel.canary->percent;
    return chosen ? channel.canary->version : channel.version;
}

bool names(const ChannelInfo& channel, std::uint64_t version) {
    return channel.version == version || (channel.canary && channel.canary->version == version);
}

}  // namespace weightcast::registry
