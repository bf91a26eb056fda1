// Requests to a device from a coroutine.
#pragma once

#include "device.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace smartio {

/// The reply to one request. The device must outlive it; every device bounds its own replies. Resumes from the event
/// loop, never from within submit.
inline boost::asio::awaitable<vfio::Reply> ask(vfio::Device& device, vfio::Request request) {
  namespace asio = boost::asio;
  auto initiation = [&device](auto handler, vfio::Request to_submit) {
    const auto executor = asio::get_associated_executor(handler);
    device.submit(std::move(to_submit), [executor, resume = std::move(handler)](vfio::Reply reply) mutable {
      asio::post(executor, [resume = std::move(resume), reply = std::move(reply)]() mutable {
        std::move(resume)(std::move(reply));
      });
    });
  };
  auto reply = co_await asio::async_initiate<const asio::use_awaitable_t<>, void(vfio::Reply)>(
      std::move(initiation), asio::use_awaitable, std::move(request));
  co_return std::move(reply);
}

} // namespace smartio
