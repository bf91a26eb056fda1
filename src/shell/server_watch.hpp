// Devices' servers that are away: noticed when they start again, which a new socket at their path shows. Nobody tells,
// and to connect would take a client from a server that serves but one, so their paths are looked at now and then.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <sys/types.h>
#include <utility>

namespace smartio {

/// Single-threaded; at rest while no server is away.
class ServerWatch {
public:
  /// `back` is called with the path of a server that is there again, from the event loop.
  ServerWatch(boost::asio::io_context& io, std::function<void(const std::string&)> back)
      : timer_(io), back_(std::move(back)) {}

  /// The server is about to be connected to: what is at the path now is not news.
  void trying(const std::string& path);
  /// It is not there, or went. `back` follows, once, when something else is at the path than what was tried; with
  /// `again`, some seconds later also if it is the same: a server's socket may be there before anybody listens to it.
  void missed(const std::string& path, bool again = false);
  void forget(const std::string& path);

private:
  using Clock = std::chrono::steady_clock;
  using Identity = std::pair<::ino_t, std::int64_t>; ///< inode, and when that was last changed; zeros: nothing there
  static Identity identity_of(const std::string& path);
  void look_later();
  void look();

  boost::asio::steady_timer timer_;
  std::function<void(const std::string&)> back_;
  std::map<std::string, Identity> tried_;
  std::map<std::string, Clock::time_point> away_; ///< from when on what was tried counts as news too
  std::chrono::milliseconds pause_{};
  bool armed_ = false;
};

} // namespace smartio
