// Requests to a device from a coroutine.
#pragma once

#include "completed.hpp"
#include "device.hpp"

namespace smartio {

/// The reply to one request. The device must outlive it; every device bounds its own replies. Resumes from the event
/// loop, never from within submit.
inline boost::asio::awaitable<vfio::Reply> ask(vfio::Device& device, vfio::Request request) {
  auto reply = co_await completed<vfio::Reply>(
      [&device, &request](vfio::Completion done) { device.submit(std::move(request), std::move(done)); });
  co_return std::move(reply);
}

} // namespace smartio
