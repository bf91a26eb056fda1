// The control socket: requests in, replies and events out.
#pragma once

#include "accepting.hpp"
#include "context.hpp"
#include "frame_stream.hpp"
#include "removal_watch.hpp"

#include <atomic>
#include <boost/asio/local/stream_protocol.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

namespace smartio {

class Control {
public:
  using Done = std::move_only_function<void(Result<core::Json> result, std::string note)>;
  using Command = std::function<void(core::ControlId from, std::string name, core::Json arguments, Done done)>;
  Control(Context& context, Command command);

  /// Replaces what a crash left there. A socket that somebody removes is made again.
  Result<void> listen(const std::string& path);
  void start();                                ///< accepts from now on
  core::ControlId new_id() { return next_++; } ///< any thread: names someone who gives commands

  /// Whether that process opened a device over its connection here.
  bool is_program(::pid_t pid) const;

  using Watcher = std::function<bool(const std::string& event)>; ///< false: no more
  void watch(Watcher watcher) { watchers_.push_back(std::move(watcher)); }
  void emit(const core::Json& event);

  void stop_listening();
  /// Closes each connection once what was sent has gone; `told` is let go after the last.
  void finish_all(const std::shared_ptr<void>& told);

private:
  using Stream = std::shared_ptr<FrameStream>;
  Result<void> open();
  Result<void> watch_path();
  void open_again();
  void accept(boost::asio::local::stream_protocol::socket socket);
  void received(core::ControlId control, ::pid_t pid, const Stream& stream, const core::Frame& frame);
  void reply(const Stream& stream, std::uint64_t id, Result<core::Json> result, const std::string& note);
  void monitor(const Stream& stream);

  Context& context_;
  Command command_;
  boost::asio::local::stream_protocol::acceptor acceptor_;
  Accepting<boost::asio::local::stream_protocol::acceptor> accepting_;
  std::string path_;
  std::unique_ptr<RemovalWatch> removal_;
  boost::asio::steady_timer retry_;
  bool lost_ = false; ///< the socket, or the watch of it, and that was said
  const std::size_t most_;
  std::map<core::ControlId, Stream> streams_;
  std::map<core::ControlId, ::pid_t> programs_; ///< that opened a device over their connection
  std::vector<Watcher> watchers_;
  std::atomic<core::ControlId> next_{1};
};

} // namespace smartio
