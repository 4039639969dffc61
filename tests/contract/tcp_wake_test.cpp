// Goal: a tcp reader is woken when payload is worth it, and bytes that wait for that neither count
// as silence nor hide it.
// Method: a holder that is written here sends as much as it likes; the reader sleeps until its
// fabric says so.
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "base/socket.h"
#include "tests/contract/support.h"
#include "transport/open.h"
#include "transport/tcp/wire.h"

namespace weightcast::transport::tcp {
namespace {

using fabric::Completion;
using fabric::ReadStatus;

constexpr std::uint32_t kProgressMs = 500;
constexpr std::size_t kBytes = 64U << 10U;

// A holder of kBytes bytes at a loopback address, with one reader that asks once for all of them.
class PacedHolder {
  public:
    PacedHolder() {
        auto listener = listen_on("127.0.0.1:0");
        REQUIRE(listener);
        listener_ = std::move(listener).value();
    }
    std::string address() const { return "tcp://" + format_address(listener_.address); }
    bool has_visitor() const {
        ::pollfd readable{listener_.socket.get(), POLLIN, 0};
        return ::poll(&readable, 1, 0) == 1;
    }
    // Answers the greeting, and takes the request.
    void accept() {
        wait_for(listener_.socket.get());
        reader_.reset(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
        REQUIRE(reader_);
        take<kHelloBytes>();
        send_message<kWelcomeBytes>(Welcome{});
        take<kRequestBytes>();
    }
    void announce(std::size_t bytes) {
        send_message<kFrameBytes>(Frame{FrameKind::data, static_cast<std::uint32_t>(bytes), 0});
    }
    void send(std::size_t bytes) {
        const std::vector<std::byte> payload(bytes, std::byte{7});
        REQUIRE(::send(reader_.get(), payload.data(), bytes, MSG_NOSIGNAL) ==
                static_cast<ssize_t>(bytes));
    }
    // Waits until what was sent is in the reader's socket.
    void await_arrival() {
        int unsent = 1;
        while (unsent > 0 && ::ioctl(reader_.get(), SIOCOUTQ, &unsent) == 0) {
            std::this_thread::yield();
        }
        REQUIRE(unsent == 0);
    }
    void end(EndStatus status) {
        send_message<kFrameBytes>(Frame{FrameKind::end, static_cast<std::uint32_t>(status), 0});
    }

  private:
    static void wait_for(int fd) {
        ::pollfd readable{fd, POLLIN, 0};
        REQUIRE(::poll(&readable, 1, 5000) == 1);
    }
    template <std::size_t Size>
    void take() {
        std::array<std::byte, Size> bytes;
        REQUIRE(::recv(reader_.get(), bytes.data(), Size, MSG_WAITALL) == ssize_t{Size});
    }
    template <std::size_t Size, typename Message>
    void send_message(const Message& message) {
        std::array<std::byte, Size> bytes;
        encode(message, std::span<std::byte, Size>(bytes));
        REQUIRE(::send(reader_.get(), bytes.data(), Size, MSG_NOSIGNAL) == ssize_t{Size});
    }

    Listener listener_;
    UniqueFd reader_;
};

// A fabric that reads all of the holder's bytes in one go.
class SleepingReader {
  public:
    explicit SleepingReader(const PacedHolder& holder) {
        fabric::FabricOptions options;
        options.progress_ms_max = kProgressMs;
        auto opened = open_tcp(options);
        REQUIRE(opened);
        fabric_ = std::move(opened).value();
        auto local = fabric_->register_memory({memory_}, fabric::Access::local);
        REQUIRE(local);
        local_ = std::move(local).value();
        const auto link = fabric_->connect({holder.address(), {}});
        const fabric::Read read{link, key_, 0, local_.get(), 0, kBytes, fabric::ReadTag(1)};
        fabric_->submit({&read, 1});
    }
    ~SleepingReader() {
        if (thread_.joinable()) thread_.join();
    }
    SleepingReader(const SleepingReader&) = delete;
    SleepingReader& operator=(const SleepingReader&) = delete;
    void start() {
        thread_ = std::thread([this] { sleep_until_done(); });
    }
    ReadStatus result() {
        thread_.join();
        return status_;
    }
    int looks() const { return looks_; }
    // Waits until it has looked what came more often than so, or is done.
    void await_look(int looks) const { looks_.wait(looks); }
    bool has_all() const {
        return std::ranges::all_of(memory_, [](std::byte b) { return b == std::byte{7}; });
    }

  private:
    void sleep_until_done() {
        std::array<Completion, 1> completions;
        while (fabric_->poll(completions) == 0) {
            ++looks_;
            looks_.notify_all();
            ::pollfd readable{fabric_->wait_fd(), POLLIN, 0};
            ::poll(&readable, 1, fabric_->wait_ms());
        }
        status_ = completions[0].status;
        ++looks_;
        looks_.notify_all();
    }

    const fabric::RegionKey key_ = encode_key(RegionId{std::byte{1}});
    std::vector<std::byte> memory_ = std::vector<std::byte>(kBytes);
    std::unique_ptr<fabric::Fabric> fabric_;
    std::unique_ptr<fabric::Region> local_;
    std::thread thread_;
    ReadStatus status_ = ReadStatus::ok;
    std::atomic<int> looks_{0};
};

// A holder that has been asked for all of its bytes.
struct Transfer {
    Transfer() {
        reader.start();
        holder.accept();
    }

    PacedHolder holder;
    SleepingReader reader{holder};
};

}  // namespace

TEST_CASE("a tcp reader sleeps while a payload comes in pieces") {
    constexpr int kPieces = 64;
    Transfer transfer;
    auto& [holder, reader] = transfer;
    holder.announce(kBytes);
    for (int i = 0; i < kPieces; ++i) {
        holder.send(kBytes / kPieces);
        holder.await_arrival();
    }
    holder.end(EndStatus::ok);
    REQUIRE(reader.result() == ReadStatus::ok);
    REQUIRE(reader.has_all());
    REQUIRE(reader.looks() < kPieces / 4);
}

TEST_CASE("a tcp holder that falls silent within a payload has failed") {
    Transfer transfer;
    auto& [holder, reader] = transfer;
    holder.announce(kBytes);
    holder.send(1000);
    REQUIRE(reader.result() == ReadStatus::timed_out);
}

TEST_CASE("a slow tcp holder is no silent one") {
    constexpr int kPieces = 6;  // most wait until the reader wakes for its deadline
    Transfer transfer;
    auto& [holder, reader] = transfer;
    holder.announce(kBytes);
    for (int i = 0; i < kPieces; ++i) {
        const int looks = reader.looks();
        holder.send(16);
        reader.await_look(looks);
    }
    holder.send(kBytes - std::size_t{kPieces} * 16);
    holder.end(EndStatus::ok);
    REQUIRE(reader.result() == ReadStatus::ok);
    REQUIRE(reader.has_all());
}

TEST_CASE("a tcp reader is woken by an end that comes before all bytes") {
    Transfer transfer;
    auto& [holder, reader] = transfer;
    holder.announce(kBytes / 2);
    holder.send(kBytes / 2);
    holder.end(EndStatus::remote_fault);
    REQUIRE(reader.result() == ReadStatus::remote_fault);
}

TEST_CASE("a tcp link connects when it is first read over") {
    PacedHolder holder;
    const auto fabric = open_tcp({});
    REQUIRE_OK(fabric);
    contract::Session session(*fabric.value(), kBytes);
    const auto link = fabric.value()->connect({holder.address(), {}});
    REQUIRE(!holder.has_visitor());
    REQUIRE(fabric.value()->link_error(link).empty());
    session.read(link, encode_key(RegionId{std::byte{1}}), {0, 0, kBytes});
    REQUIRE(holder.has_visitor());
    fabric.value()->disconnect(link);
    session.finish();
}

}  // namespace weightcast::transport::tcp
