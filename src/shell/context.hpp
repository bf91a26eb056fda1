// What the parts of the shell have in common.
#pragma once

#include "events.hpp"

#include <boost/asio/io_context.hpp>
#include <functional>
#include <smartio/node.hpp>
#include <string>

namespace smartio {

/// Of one node; outlives its parts, which run on the event loop's one thread.
struct Context {
  boost::asio::io_context& io;
  const Config& config;
  std::function<void(core::Event)> handle; ///< tells core; what is told from within its effects comes after them
  bool stopping = false;                   ///< nothing begins any more, and core is told nothing

  void log(int level, const std::string& text) const {
    if (config.log) config.log(level, text);
  }
};

} // namespace smartio
