// A directory that follows a channel: a directory for each version, and a link to the current one.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "agent/node_impl.h"
#include "base/file.h"
#include "base/log.h"
#include "base/numbers.h"
#include "registry/canary.h"

namespace weightcast::agent {
namespace {

namespace fs = std::filesystem;

std::string name_of_version(std::uint64_t version) { return fmt::format("v{}", version); }

std::optional<std::uint64_t> version_of_name(const std::string& name) {
    if (!name.starts_with('v')) return std::nullopt;
    const auto version = parse_number(std::string_view(name).substr(1));
    return version && name == name_of_version(*version) ? version : std::nullopt;
}

class FollowedDirectory final : public FollowTarget {
  public:
    FollowedDirectory(NodeImpl& node, const FollowOptions& options)
        : node_(node), options_(options) {
        options_.pull.serve = true;
        // What is wrong in a version's directory is not worth keeping.
        options_.pull.replace = true;
    }

    // Errors: conflict, io.
    Result<void> open() {
        std::error_code error;
        const std::string& directory = options_.pull.directory;
        fs::create_directories(directory, error);
        if (error) return system_error(error.value(), "cannot make directory " + directory);
        root_ = fs::canonical(directory, error).string();
        if (error) return system_error(error.value(), "cannot resolve " + directory);
        WEIGHTCAST_TRY(lock_, open_file(root_, O_RDONLY | O_DIRECTORY));
        if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
            return Error{Code::conflict, errno, root_ + " is followed already"};
        }
        return adopt();
    }

    Result<void> stage(const registry::ChannelInfo& to, const std::stop_token& stop) override {
        const bool current = !flipped_.empty() && flipped_.back() == to.version;
        if (current && report_.version == to.version) {
            report_ = {.model = to.model, .version = to.version};  // Moved away and back.
        } else {
            WEIGHTCAST_TRY(report_, pull(to.version, stop));
        }
        report_.generation = to.generation;
        return success();
    }

    // One rename moves the link.
    Result<void> flip(const registry::ChannelInfo& to, const std::stop_token& /*stop*/) override {
        const std::string next = root_ + "/.current-next";
        const std::string current = root_ + "/current";
        ::unlink(next.c_str());
        if (::symlink(name_of_version(to.version).c_str(), next.c_str()) != 0) {
            return system_error(errno, "cannot make the link " + next);
        }
        if (::rename(next.c_str(), current.c_str()) != 0) {
            return system_error(errno, "cannot move the link " + current);
        }
        if (options_.pull.sync && ::fsync(lock_.get()) != 0) {
            return system_error(errno, fmt::format("cannot write {} to disk", root_));
        }
        std::erase(flipped_, to.version);
        flipped_.push_back(to.version);
        if (options_.on_flip) options_.on_flip(report_);
        prune();
        return success();
    }

    void on_trouble(const registry::ChannelInfo& to, const Error& error) override {
        const Error told{
            error.code, error.sys_errno,
            fmt::format("{}@{} cannot be had: {}", to.model, to.version, error.message)};
        log(LogLevel::warning, "{}", told.message);
        if (options_.on_trouble) options_.on_trouble(told);
    }

  private:
    Result<PullReport> pull(std::uint64_t version, const std::stop_token& stop) {
        PullOptions options = options_.pull;
        options.reference = fmt::format("@{}", version);
        options.directory = root_ + "/" + name_of_version(version);
        options.stop = stop;
        return node_.pull(options);
    }

    // What an earlier life of this follower left: the current version is verified and served, so
    // that the next one can share with it.
    Result<void> adopt() {
        flipped_ = present();
        std::erase_if(flipped_, [this](std::uint64_t version) {  // a part, of a dropped pull
            return fs::exists(root_ + "/" + name_of_version(version) + "/.weightcast-partial");
        });
        std::error_code error;
        const fs::path link = fs::read_symlink(root_ + "/current", error);
        const auto version = error ? std::nullopt : version_of_name(link.string());
        if (!version || std::erase(flipped_, *version) == 0) return success();
        flipped_.push_back(*version);
        auto pulled = pull(*version, options_.pull.stop);
        if (pulled) {
            report_ = std::move(pulled).value();
        } else {
            log(LogLevel::warning, "{} is not used: {}", root_ + "/" + link.string(),
                pulled.error().message);
        }
        return success();
    }

    // The versions that have a directory, ascending.
    std::vector<std::uint64_t> present() const {
        std::vector<std::uint64_t> versions;
        std::error_code error;
        for (auto entry = fs::directory_iterator(root_, error);
             !error && entry != fs::directory_iterator(); entry.increment(error)) {
            const auto version = version_of_name(entry->path().filename().string());
            if (version) versions.push_back(*version);
        }
        std::ranges::sort(versions);
        return versions;
    }

    // Removes all but the versions that were current last, and those that are wanted and that
    // nobody else has.
    void prune() {
        const std::size_t kept = std::max(1U, options_.versions_kept);
        const auto first = flipped_.size() > kept
                               ? flipped_.end() - static_cast<std::ptrdiff_t>(kept)
                               : flipped_.begin();
        const std::vector<std::uint64_t> keep(first, flipped_.end());
        for (const std::uint64_t version : present()) {
            if (std::ranges::find(keep, version) != keep.end()) continue;
            auto dropped = node_.withdraw(options_.pull.model, version, {});
            // What an earlier life of this follower left is not served.
            if (!dropped && dropped.error().code == Code::not_found) {
                dropped = node_.check_not_lost(options_.pull.model, version);
            }
            if (!dropped) {
                log(LogLevel::info, "{}@{} is kept: {}", options_.pull.model, version,
                    dropped.error().message);
                continue;
            }
            std::erase(flipped_, version);
            if (const auto removed = remove_tree(root_ + "/" + name_of_version(version));
                !removed) {
                log(LogLevel::warning, "{}", removed.error().message);
            }
        }
    }

    NodeImpl& node_;
    FollowOptions options_;
    std::string root_;
    UniqueFd lock_;                       // the directory, flock()ed
    std::vector<std::uint64_t> flipped_;  // that have been current, the last one last
    PullReport report_;
};

}  // namespace

Result<void> NodeImpl::follow_directory(const FollowOptions& options) {
    if (options.pull.directory.empty()) {
        return Error{Code::invalid_input, 0, "PullOptions::directory is not set"};
    }
    FollowedDirectory directory(*this, options);
    WEIGHTCAST_TRY(const auto loop, follow(options.pull, directory));
    WEIGHTCAST_CHECK(directory.open());
    return loop->run(options.pull.stop);
}

Result<std::unique_ptr<FollowLoop>> NodeImpl::follow(const PullOptions& options,
                                                     FollowTarget& target) {
    WEIGHTCAST_CHECK(model::check_model_name(options.model));
    std::string channel = "stable";
    if (!options.reference.empty()) {
        if (!options.reference.starts_with(':')) {
            return Error{Code::invalid_input, 0,
                         fmt::format("{}{} cannot be followed: only a channel moves", options.model,
                                     options.reference)};
        }
        channel = options.reference.substr(1);
    }
    WEIGHTCAST_TRY(auto watch, registry::watch_channel(registry_, options.model, channel));
    return std::make_unique<FollowLoop>(
        std::move(watch),
        [this, model = options.model, channel] { return where_is(model, channel); },
        [this] { return membership_->cluster_id(); },
        [this](const registry::ChannelInfo& to) {
            return registry::version_for(to, name_, labels_);
        },
        target);
}

Result<registry::ChannelInfo> NodeImpl::where_is(const std::string& model,
                                                 const std::string& channel) {
    WEIGHTCAST_TRY(const auto moves,
                   membership_->call([&](registry::Api& api, const registry::PeerRef&) {
                       return api.history(model, channel, 1);
                   }));
    if (!moves.empty()) return moves.back().channel;
    return Error{Code::not_found, 0, fmt::format("there is no channel {}:{}", model, channel)};
}

Result<void> NodeImpl::check_not_lost(const std::string& model, std::uint64_t version) {
    WEIGHTCAST_TRY(const registry::ModelInfo known, find_model(model));
    const auto info = std::ranges::find(known.versions, version, &registry::VersionInfo::version);
    const bool held = info == known.versions.end() || info->holders_complete > 0;
    const bool named = std::ranges::any_of(
        known.channels, [&](const auto& channel) { return registry::names(channel, version); });
    if (held || !named) return success();
    return Error{Code::conflict, 0,
                 fmt::format("a channel names {}@{}, and nobody has all of it", model, version)};
}

}  // namespace weightcast::agent
