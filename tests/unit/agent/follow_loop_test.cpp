// Goal: what follows a channel is brought to the newest generation and to nothing older, through
// failures and moves at any moment. Method: a channel and a target that the test moves by hand.
#include "agent/follow_loop.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/kit/catch.h"

namespace weightcast::agent {
namespace {

using registry::ChannelInfo;

// A channel that tells its moves at once, or not at all while it is mute.
class Channel {
  public:
    void move(std::uint64_t version, bool tell = true) {
        const std::lock_guard lock(mutex_);
        ++now_.generation;
        now_.version = version;
        now_.model = "m";
        now_.channel = "stable";
        if (tell) told_ = now_;
        changed_.notify_all();
    }
    // As a new store tells it.
    void begin_again(std::uint64_t version) {
        const std::lock_guard lock(mutex_);
        now_.generation = 1;
        now_.version = version;
        told_ = now_;
        changed_.notify_all();
    }
    ChannelInfo now() {
        const std::lock_guard lock(mutex_);
        return now_;
    }

    class Watch final : public registry::ChannelWatch {
      public:
        explicit Watch(Channel& channel) : channel_(channel) {}
        Result<std::optional<ChannelInfo>> next(std::uint64_t known,
                                                std::chrono::milliseconds wait) override {
            std::unique_lock lock(channel_.mutex_);
            const bool news = channel_.changed_.wait_for(lock, wait, [&] {
                return cancelled_ || channel_.refused_ || channel_.told_.generation != known;
            });
            if (!news) return std::optional<ChannelInfo>();
            if (cancelled_) return Error{Code::cancelled, 0, "cancelled"};
            if (channel_.refused_) return Error{Code::refused, 0, "the token is wrong"};
            return std::optional(channel_.told_);
        }
        void cancel() override {
            const std::lock_guard lock(channel_.mutex_);
            cancelled_ = true;
            channel_.changed_.notify_all();
        }
        const std::string& trouble() const override { return trouble_; }

      private:
        Channel& channel_;
        bool cancelled_ = false;
        std::string trouble_;
    };
    void refuse() {
        const std::lock_guard lock(mutex_);
        refused_ = true;
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    ChannelInfo now_;
    ChannelInfo told_;
    bool refused_ = false;
};

struct Target final : FollowTarget {
    std::function<Result<void>(const ChannelInfo&, const std::stop_token&)> on_stage;
    std::function<Result<void>(const ChannelInfo&)> on_flip;
    std::vector<std::uint64_t> flips;  // generations
    std::vector<std::string> troubles;

    Result<void> stage(const ChannelInfo& to, const std::stop_token& stop) override {
        return on_stage ? on_stage(to, stop) : success();
    }
    Result<void> flip(const ChannelInfo& to, const std::stop_token&) override {
        flips.push_back(to.generation);
        return on_flip ? on_flip(to) : success();
    }
    void on_trouble(const ChannelInfo&, const Error& error) override {
        troubles.push_back(error.message);
    }
};

void wait_for_stop(const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    wake.wait(lock, stop, [] { return false; });
}

struct Following {
    Channel channel;
    Target target;
    std::stop_source stop;
    std::atomic<int> store{1};  // at the registry

    std::string cluster() const { return std::to_string(store); }
    Result<void> run() {
        FollowLoop loop(
            std::make_unique<Channel::Watch>(channel),
            [this]() -> Result<ChannelInfo> { return channel.now(); }, [this] { return cluster(); },
            [](const ChannelInfo& to) { return to.version; }, target);
        return loop.run(stop.get_token());
    }
    // Flips that take the channel on, until there is nothing more to do.
    void after_each_flip(std::vector<std::function<void()>> steps) {
        target.on_flip = [this, steps, next = std::size_t{0}](const ChannelInfo&) mutable {
            if (next == steps.size()) {
                stop.request_stop();
            } else {
                steps[next++]();
            }
            return success();
        };
    }
};

TEST_CASE("each move is followed") {
    Following following;
    following.channel.move(1);
    following.after_each_flip(
        {[&] { following.channel.move(2); }, [&] { following.channel.move(1); }});
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{1, 2, 3});
    CHECK(following.target.troubles.empty());
}

TEST_CASE("a move while a version is staged stops that, and the version is never flipped to") {
    Following following;
    following.channel.move(1);
    following.after_each_flip({});
    following.target.on_stage = [&](const ChannelInfo& to,
                                    const std::stop_token& stop) -> Result<void> {
        if (to.generation != 1) return success();
        following.channel.move(2);
        wait_for_stop(stop);
        return Error{Code::cancelled, 0, "stopped"};
    };
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{2});
    CHECK(following.target.troubles.empty());
}

TEST_CASE("of versions that come faster than they can be had, some are flipped to") {
    Following following;
    following.channel.move(1);
    following.target.on_flip = [&](const ChannelInfo& to) {
        if (to.generation > 8) following.stop.request_stop();
        return success();
    };
    following.target.on_stage = [&](const ChannelInfo& to,
                                    const std::stop_token& stop) -> Result<void> {
        if (to.generation > 8) return success();
        following.channel.move(to.version + 1);
        if (!stop.stop_requested() && following.target.troubles.empty()) wait_for_stop(stop);
        if (!stop.stop_requested()) return success();
        return Error{Code::cancelled, 0, "stopped"};
    };
    REQUIRE_OK(following.run());
    // Three were given up, the fourth is finished although the channel is at the fifth.
    REQUIRE(!following.target.flips.empty());
    CHECK(following.target.flips.front() == 4);
    CHECK(std::ranges::is_sorted(following.target.flips));
    REQUIRE(!following.target.troubles.empty());
    CHECK(following.target.troubles.front().find("moved on 3 times") != std::string::npos);
}

TEST_CASE("what the channel has gone back from is given up, however often it moves") {
    Following following;
    following.channel.move(100);
    following.after_each_flip({});
    following.target.on_stage = [&](const ChannelInfo& to,
                                    const std::stop_token& stop) -> Result<void> {
        if (to.generation > 8) return success();
        following.channel.move(to.version - 1);
        wait_for_stop(stop);
        return Error{Code::cancelled, 0, "stopped"};
    };
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{9});
}

TEST_CASE("a registry that lost its store is followed from its first generation on") {
    Following following;
    following.channel.move(1);
    following.after_each_flip({[&] { following.channel.move(2); },
                               [&] {
                                   following.channel.begin_again(7);
                                   following.store = 2;
                               }});
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{1, 2, 1});
}

TEST_CASE("a move that nobody told of is found before the flip") {
    Following following;
    following.channel.move(1);
    following.after_each_flip({});
    following.target.on_stage = [&](const ChannelInfo& to, const std::stop_token&) {
        if (to.generation == 1) following.channel.move(2, false);
        return success();
    };
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{2});
}

TEST_CASE("what failed is told and tried again") {
    Following following;
    following.channel.move(1);
    int attempts = 0;
    following.after_each_flip({});
    following.target.on_stage = [&](const ChannelInfo&, const std::stop_token&) -> Result<void> {
        if (++attempts == 3) return success();
        return Error{Code::unavailable, 0, "nobody has it"};
    };
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{1});
    CHECK(following.target.troubles == std::vector<std::string>(2, "nobody has it"));
}

TEST_CASE("a version that fails is left alone once there is a newer one") {
    Following following;
    following.channel.move(1);
    following.after_each_flip({});
    following.target.on_stage = [&](const ChannelInfo& to,
                                    const std::stop_token& stop) -> Result<void> {
        if (to.generation > 20) return success();
        following.channel.move(7);
        wait_for_stop(stop);
        return Error{Code::unavailable, 0, "nobody has it"};
    };
    REQUIRE_OK(following.run());
    CHECK(following.target.flips == std::vector<std::uint64_t>{21});
    CHECK(following.target.troubles.empty());
}

TEST_CASE("a stop ends it while it waits and while it stages") {
    Following following;
    SECTION("nothing to do") {
        std::thread stopper([&] { following.stop.request_stop(); });
        CHECK(following.run().has_value());
        stopper.join();
    }
    SECTION("staging") {
        following.channel.move(1);
        following.target.on_stage = [&](const ChannelInfo&,
                                        const std::stop_token& stop) -> Result<void> {
            following.stop.request_stop();
            wait_for_stop(stop);
            return Error{Code::cancelled, 0, "stopped"};
        };
        CHECK(following.run().has_value());
        CHECK(following.target.troubles.empty());
    }
    CHECK(following.target.flips.empty());
}

TEST_CASE("a registry that refuses ends it with the reason") {
    Following following;
    following.channel.refuse();
    const auto ended = following.run();
    REQUIRE(ended.has_error());
    CHECK(ended.error().code == Code::refused);
}

}  // namespace
}  // namespace weightcast::agent
