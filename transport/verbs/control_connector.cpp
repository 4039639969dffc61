// Connecting out of band: both sides say over TCP where their queue pairs are. The TCP connection
// stays: its end is the end of the lane.
#include <fmt/core.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "transport/verbs/connector.h"

namespace weightcast::transport::verbs {
namespace {

using fabric::ReadStatus;

class ControlConnector final : public Connector {
  public:
    ControlConnector(QueuePair& pair, const Hello& hello, const ConnectorOptions& options)
        : Connector(pair, hello), options_(options), packet_(random_packet()) {
        encode(hello_, std::span(request_).first<kHelloBytes>());
        encode(address_of(pair_, packet_), std::span(request_).last<kPairAddressBytes>());
    }

    void start(const SocketAddress& control) {
        auto socket = open_socket(control.storage.ss_family);
        if (!socket) return fail(ReadStatus::unreachable, socket.error().message);
        socket_ = std::move(socket).value();
        if (::connect(socket_.get(), control.get(), control.bytes) != 0 && errno != EINPROGRESS) {
            fail_call("connect");
        }
    }

    int fd() const override { return socket_.get(); }
    bool wants_write() const override {
        return state_ == State::connecting && sent_ < request_.size();
    }

    void advance() override {
        if (state_ == State::failed || state_ == State::lost) return;
        while (sent_ < request_.size()) {
            const auto count = ::send(socket_.get(), request_.data() + sent_,
                                      request_.size() - sent_, MSG_NOSIGNAL);
            if (count < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;
            if (count < 0) return fail_call("send");
            sent_ += static_cast<std::size_t>(count);
        }
        // Once connected anything but silence ends the connection.
        while (state_ == State::connecting || state_ == State::connected) {
            const bool whole = received_ == answer_.size();
            std::byte extra{};
            const auto count = ::recv(socket_.get(), whole ? &extra : answer_.data() + received_,
                                      whole ? 1 : answer_.size() - received_, 0);
            if (count < 0 && errno == EAGAIN) return;
            if (count < 0) return fail_call("recv");
            if (count == 0) return fail(ReadStatus::unreachable, "the peer ended the connection");
            if (whole) return fail(ReadStatus::unreachable, "the peer broke the protocol");
            received_ += static_cast<std::size_t>(count);
            if (received_ >= kWelcomeBytes) on_answer();
        }
    }

  private:
    void fail_call(const char* call) {
        fail(ReadStatus::unreachable, system_error(errno, call).message);
    }

    // A refusal has no queue pair behind it.
    void on_answer() {
        const auto welcome = decode_welcome(answer_);
        if (!welcome) {
            return fail(ReadStatus::unreachable, "what answers there is no weightcast holder");
        }
        if (welcome->verdict != Verdict::accepted) {
            accept(*welcome);
            return;
        }
        if (received_ < answer_.size()) return;
        const auto peer = decode_pair_address(std::span(answer_).last<kPairAddressBytes>());
        if (!peer) return fail(ReadStatus::unreachable, "the peer sent a malformed answer");
        path_ = path_to(pair_.rail(), *peer, options_.traffic_class);
        path_.own_packet = packet_;
        path_.read_depth = static_cast<std::uint8_t>(pair_.rail().choice().read_depth);
        const auto connect = [&]() -> Result<void> {
            if (!accept(*welcome)) return success();
            WEIGHTCAST_CHECK(pair_.to_init(path_));
            WEIGHTCAST_CHECK(pair_.to_ready_to_receive(path_));
            WEIGHTCAST_CHECK(pair_.to_ready_to_send(path_));
            state_ = State::connected;
            return success();
        };
        if (auto connected = connect(); !connected) {
            fail(ReadStatus::unreachable, connected.error().message);
        }
    }

    const ConnectorOptions options_;
    const std::uint32_t packet_;
    UniqueFd socket_;
    std::array<std::byte, kHelloBytes + kPairAddressBytes> request_;
    std::array<std::byte, kWelcomeBytes + kPairAddressBytes> answer_{};
    std::size_t sent_ = 0;
    std::size_t received_ = 0;
};

}  // namespace

std::unique_ptr<Connector> connect_out_of_band(QueuePair& pair, const Hello& hello,
                                               const SocketAddress& control,
                                               const ConnectorOptions& options) {
    auto connector = std::make_unique<ControlConnector>(pair, hello, options);
    connector->start(control);
    return connector;
}

}  // namespace weightcast::transport::verbs
