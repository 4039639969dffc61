// The part of the server that has to do with requests whose gates are closed.
#include <algorithm>
#include <chrono>

#include "transport/tcp/server.h"

namespace weightcast::transport::tcp {
namespace {

// A reader hears from a server that is there at least every second one of these periods, and gives
// it up after eight, if it is as patient as the server.
Duration keep_alive_period(const fabric::FabricOptions& options) {
    return std::chrono::milliseconds(std::max(1U, options.progress_ms_max / 8));
}

}  // namespace

void Server::watch_gates(ServerConnection& connection) {
    const std::size_t parked = connection.parked();
    connection.look_at_new_gates();
    parked_ -= parked - connection.parked();
    if (connection.parked() == 0 || connection.listed) return;
    if (waiting_.empty()) next_keep_alive_ = now_ + keep_alive_period(options_);
    connection.listed = true;
    waiting_.push_back(&connection);
}

void Server::look_at_gates() {
    // Turns change when the readers' plan does.
    if (!std::ranges::is_sorted(waiting_, {}, &ServerConnection::turn)) {
        std::ranges::stable_sort(waiting_, {}, &ServerConnection::turn);
    }
    std::uint64_t released = 0;
    std::erase_if(waiting_, [&](ServerConnection* connection) {
        const std::size_t parked = connection->parked();
        connection->look_at_gates();
        released += parked - connection->parked();
        queue_turn(*connection);
        connection->listed = connection->parked() > 0;
        return !connection->listed;
    });
    parked_ -= released;
}

void Server::keep_alive() {
    next_keep_alive_ = now_ + keep_alive_period(options_);
    look_at_gates();
    for (std::size_t i = 0; i < waiting_.size();) {
        ServerConnection& connection = *waiting_[i];
        if (connection.say_waiting()) {
            queue_turn(connection);
            ++i;
        } else {
            close(connection.id);  // which takes it out of the list
        }
    }
}

}  // namespace weightcast::transport::tcp
