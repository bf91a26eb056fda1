// A Unix socket that takes commands, one to a line, and answers each with "ok" or "unknown". Knows no commands.
#pragma once

#include "user/listen.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <functional>
#include <memory>
#include <smartio/error.hpp>
#include <string>
#include <string_view>

namespace smartio::sim {

class FaultSocket {
public:
  using Command = std::function<bool(std::string_view line)>; ///< false: unknown

  /// Listens on `path`, mode 0600. Errors: those of vfio::user::ListeningPath.
  static Result<std::unique_ptr<FaultSocket>> listen(boost::asio::io_context& io, const std::string& path,
                                                     Command command);
  ~FaultSocket();

private:
  struct State;
  explicit FaultSocket(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

} // namespace smartio::sim
