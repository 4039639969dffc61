// Coroutines of one thread that wait for something to happen.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <set>

#include "base/clock.h"

namespace weightcast::registry {

class Waiters {
  public:
    // Until wake(), but not for longer. True if it was wake().
    boost::asio::awaitable<bool> wait(Duration longest) {
        boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor, longest);
        const Listed listed(timers_, timer);
        const auto [woken] =
            co_await timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
        co_return bool(woken);
    }
    // All that wait now.
    void wake() {
        for (boost::asio::steady_timer* const timer : timers_) timer->cancel();
    }

  private:
    using Timers = std::set<boost::asio::steady_timer*>;

    struct Listed {
        Listed(Timers& in, boost::asio::steady_timer& with) : timers(in), timer(&with) {
            timers.insert(timer);
        }
        ~Listed() { timers.erase(timer); }
        Listed(const Listed&) = delete;
        Listed& operator=(const Listed&) = delete;

        Timers& timers;
        boost::asio::steady_timer* timer;
    };

    Timers timers_;
};

}  // namespace weightcast::registry
