#include "frame_stream.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <sys/socket.h>
#include <utility>

namespace smartio {

namespace asio = boost::asio;
using boost::system::error_code;
using namespace std::chrono_literals;

namespace {
constexpr std::size_t longest_queue = 32U << 20;
} // namespace

void FrameStream::start(OnFrame frame, OnClosed closed) {
  on_frame_ = std::move(frame);
  on_closed_ = std::move(closed);
  read();
}

void FrameStream::read() {
  socket_.async_read_some(asio::buffer(buffer_), [self = shared_from_this()](error_code error, std::size_t bytes) {
    if (!self->socket_.is_open()) return;
    if (error) return self->fail(error == asio::error::eof ? "it closed the connection" : error.message());
    self->received(bytes);
  });
}

void FrameStream::received(std::size_t bytes) {
  reader_.feed({buffer_.data(), bytes});
  for (;;) {
    auto frame = reader_.next();
    if (!frame) return fail(frame.error().context);
    if (!*frame) break;
    ++frames_;
    if (on_frame_) on_frame_(std::move(**frame));
    if (!socket_.is_open() || finishing_) return;
  }
  watch_frame();
  read();
}

/// A frame that has begun must end in time; between frames there is no timer.
void FrameStream::watch_frame() {
  if (!reader_.in_frame()) {
    if (std::exchange(timing_, false)) timer_.cancel();
    return;
  }
  if (!std::exchange(timing_, true)) time_frame();
}

void FrameStream::time_frame() {
  timer_.expires_after(patience_);
  timer_.async_wait([self = shared_from_this(), begun = frames_](error_code error) {
    if (error || !self->timing_) return;
    // That one ended, and another has begun; or it may have: what came meanwhile has not been read yet.
    if (self->frames_ != begun || self->stood_still(self->timer_)) return self->time_frame();
    self->fail("a frame it began did not end in time");
  });
}

void FrameStream::send(std::string_view frame) {
  if (!socket_.is_open() || finishing_) return;
  if (queue_.empty()) frame.remove_prefix(write_now(frame));
  if (frame.empty()) return;
  queued_ += frame.size();
  queue_.emplace_back(frame);
  if (queued_ > longest_queue) {
    asio::post(socket_.get_executor(), [self = shared_from_this()] { self->fail("it does not read"); });
    return;
  }
  if (queue_.size() == 1) write();
}

/// How much of it the socket takes at once: mostly all, and then there is nothing to wait for, and nothing to time.
/// What is wrong with the socket shows when the rest is written.
std::size_t FrameStream::write_now(std::string_view bytes) {
  const auto written = ::send(socket_.native_handle(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return written < 0 ? 0 : static_cast<std::size_t>(written);
}

/// Whether this program did not run when the timer went off: then it cannot say who was slow.
bool FrameStream::stood_still(const asio::steady_timer& timer) const {
  return std::chrono::steady_clock::now() - timer.expiry() > patience_ / 5;
}

void FrameStream::time_write() {
  write_timer_.expires_after(6 * patience_);
  write_timer_.async_wait([weak = weak_from_this(), written = written_](error_code error) {
    const auto self = weak.lock();
    if (!self || error || !self->socket_.is_open() || self->written_ != written) return;
    if (self->stood_still(self->write_timer_)) return self->time_write();
    self->fail("it does not read");
  });
}

void FrameStream::write() {
  time_write();
  asio::async_write(socket_, asio::buffer(queue_.front()), [self = shared_from_this()](error_code error, std::size_t) {
    if (!self->socket_.is_open()) return;
    self->write_timer_.cancel();
    ++self->written_;
    if (error) return self->fail(error.message());
    self->queued_ -= self->queue_.front().size();
    self->queue_.pop_front();
    if (!self->queue_.empty())
      self->write();
    else if (self->finishing_)
      self->close();
  });
}

void FrameStream::fail(const std::string& why) {
  const auto closed = std::exchange(on_closed_, nullptr);
  close();
  if (closed) closed(why);
}

void FrameStream::finish(std::shared_ptr<void> until_closed) {
  until_closed_ = std::move(until_closed);
  on_frame_ = nullptr;
  on_closed_ = nullptr;
  if (queue_.empty()) return close();
  finishing_ = true;
  timer_.expires_after(1s);
  timer_.async_wait([self = shared_from_this()](error_code error) {
    if (!error) self->close();
  });
}

void FrameStream::close() {
  error_code ignored;
  timer_.cancel();
  write_timer_.cancel();
  timing_ = false;
  on_frame_ = nullptr;
  on_closed_ = nullptr;
  socket_.close(ignored);
  until_closed_.reset();
}

} // namespace smartio
