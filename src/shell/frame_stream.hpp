// Frames over a stream socket, TCP or local: bounded queues, bounded time for a frame that has begun.
#pragma once

#include "frame.hpp"

#include <array>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace smartio {

/// Single-threaded. Callbacks come from the event loop, never from within send().
class FrameStream final : public std::enable_shared_from_this<FrameStream> {
public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using OnFrame = std::function<void(core::Frame)>;
  using OnClosed = std::function<void(const std::string& why)>;

  /// A frame that has begun is over after `patience`, or the stream is.
  FrameStream(Socket socket, std::size_t limit, std::chrono::milliseconds patience = std::chrono::seconds(5))
      : socket_(std::move(socket)), reader_(limit), patience_(patience), timer_(socket_.get_executor()),
        write_timer_(socket_.get_executor()) {}

  /// Reads until either end closes or something malformed comes; then `closed` is called once.
  void start(OnFrame frame, OnClosed closed);
  void set_limit(std::size_t limit) { reader_.set_limit(limit); } ///< of frames to come
  /// An encoded one. A reader that is 32 MiB behind is cut off, or that took no whole frame for 6 times `patience`.
  void send(std::string_view frame);
  /// Closes once everything sent has gone, or after 1 s; no callback follows, and `until_closed` is let go.
  void finish(std::shared_ptr<void> until_closed = nullptr);
  void close(); ///< at once; no callback follows

private:
  void read();
  void received(std::size_t bytes);
  std::size_t write_now(std::string_view bytes);
  void write();
  void fail(const std::string& why);
  void watch_frame();
  void time_frame();
  void time_write();
  bool stood_still(const boost::asio::steady_timer& timer) const;

  Socket socket_;
  core::FrameReader reader_;
  std::chrono::milliseconds patience_;
  std::uint64_t frames_ = 0, written_ = 0; ///< that have come, that have gone
  boost::asio::steady_timer timer_, write_timer_;
  std::array<char, 16384> buffer_{};
  std::deque<std::string> queue_;
  std::shared_ptr<void> until_closed_;
  std::size_t queued_ = 0;
  OnFrame on_frame_;
  OnClosed on_closed_;
  bool finishing_ = false, timing_ = false;
};

} // namespace smartio
