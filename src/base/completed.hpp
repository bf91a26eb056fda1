// Waiting in a coroutine for what reports by a callback. For those who have Asio.
#pragma once

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <functional>

namespace smartio {

/// What `start` gives to the callback that it is called with. Resumes from the event loop, never from within `start`.
template <class T>
boost::asio::awaitable<T> completed(std::move_only_function<void(std::move_only_function<void(T)>)> start) {
  namespace asio = boost::asio;
  auto initiation = [start = std::move(start)](auto handler) mutable {
    const auto executor = asio::get_associated_executor(handler);
    start([executor, resume = std::move(handler)](T result) mutable {
      asio::post(executor, [resume = std::move(resume), result = std::move(result)]() mutable {
        std::move(resume)(std::move(result));
      });
    });
  };
  auto result =
      co_await asio::async_initiate<const asio::use_awaitable_t<>, void(T)>(std::move(initiation), asio::use_awaitable);
  co_return std::move(result);
}

} // namespace smartio
