// Reading: recvmsg into one buffer, messages handed out in place.
#include "stream.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cassert>
#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <utility>

namespace smartio::vfio::user {

using boost::system::error_code;

namespace {
constexpr std::size_t usual_capacity = 64 * 1024;
constexpr int reads_per_turn = 16; ///< then others get theirs
} // namespace

Stream::Stream(Socket socket, StreamLimits limits, OnMessage received, OnEnd ended)
    : socket_(std::move(socket)), input_timer_(socket_.get_executor()), output_timer_(socket_.get_executor()),
      limits_(limits), received_(std::move(received)), ended_(std::move(ended)),
      input_(std::make_unique_for_overwrite<std::byte[]>(usual_capacity)), capacity_(usual_capacity) {
  ::fcntl(socket_.native_handle(), F_SETFD, FD_CLOEXEC); // Asio makes and accepts sockets without
}

void Stream::start() { wait_readable(); }

void Stream::resume() {
  if (!std::exchange(paused_, false) || !open_) return;
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] { self->on_readable(); });
}

bool Stream::hung_up() const noexcept {
  pollfd entry{const_cast<Socket&>(socket_).native_handle(), 0, 0};
  return open_ && ::poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

void Stream::drain() {
  assert(!delivering_); // a message in use must not move
  const auto self = shared_from_this();
  deliver();
  while (open_ && reading_allowed())
    if (const auto got = receive(); got == Got::bytes || got == Got::all)
      deliver();
    else
      break;
}

void Stream::close() {
  if (!std::exchange(open_, false)) return;
  error_code ignored;
  input_timer_.cancel();
  output_timer_.cancel();
  socket_.close(ignored);
  output_.clear();
  fds_.clear();
  last_fds_.clear();
}

void Stream::end(End why) {
  if (!open_) return;
  close();
  ended_(why);
}

void Stream::end_later(End why) {
  if (std::exchange(failed_, true)) return;
  boost::asio::post(socket_.get_executor(), [self = shared_from_this(), why] { self->end(why); });
}

void Stream::wait_readable() {
  if (!open_) return;
  if (!reading_allowed()) return wait_hang_up();
  if (std::exchange(waiting_readable_, true)) return;
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](error_code error) {
    self->waiting_readable_ = false;
    if (!error) self->on_readable();
  });
}

void Stream::wait_hang_up() {
  if (std::exchange(waiting_hang_up_, true)) return;
  socket_.async_wait(Socket::wait_error, [self = shared_from_this()](error_code error) {
    self->waiting_hang_up_ = false;
    if (error || !self->open_ || self->reading_allowed()) return;
    if (self->hung_up()) return self->end(End::closed);
    self->wait_hang_up();
  });
}

void Stream::on_readable() {
  deliver(); // what a pause left
  for (int turn = 0; open_ && reading_allowed() && turn < reads_per_turn; ++turn) {
    const auto got = receive();
    if (got == Got::bytes || got == Got::all) deliver();
    if (got != Got::bytes) break;
  }
  watch_input();
  wait_readable();
}

/// Space for the rest of the message at begin_, or for a few small ones.
void Stream::make_room() {
  if (begin_ == end_) begin_ = end_ = 0;
  std::size_t needed = 4096;
  if (const auto header = load<Header>({input_.get() + begin_, end_ - begin_}))
    needed = header->size - (end_ - begin_); // deliver() has checked the size, and that it is not all here
  if (capacity_ - end_ >= needed) return;
  const auto have = end_ - begin_;
  if (have + needed <= capacity_) {
    std::memmove(input_.get(), input_.get() + begin_, have);
  } else {
    auto larger = std::make_unique_for_overwrite<std::byte[]>(have + needed);
    std::memcpy(larger.get(), input_.get() + begin_, have);
    input_ = std::move(larger);
    capacity_ = have + needed;
  }
  begin_ = 0;
  end_ = have;
}

Stream::Got Stream::receive() {
  make_room();
  alignas(cmsghdr) std::byte control[CMSG_SPACE(max_fds * sizeof(int))];
  iovec part{input_.get() + end_, capacity_ - end_};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const auto got = ::recvmsg(socket_.native_handle(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Got::nothing;
  if (got <= 0) return end(End::closed), Got::end;
  if (!keep_descriptors(message)) return end(End::malformed), Got::end;
  end_ += static_cast<std::size_t>(got);
  // Descriptors end a read before its time.
  const bool full = static_cast<std::size_t>(got) == part.iov_len || message.msg_controllen != 0;
  return full ? Got::bytes : Got::all;
}

/// Takes ownership of every descriptor that came, in whatever state the message is. False when some were lost on the
/// way: too many for one message.
bool Stream::keep_descriptors(const msghdr& message) {
  auto* mutable_message = const_cast<msghdr*>(&message);
  for (auto* part = CMSG_FIRSTHDR(mutable_message); part != nullptr; part = CMSG_NXTHDR(mutable_message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const auto count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      last_fds_.push_back(harmless(Fd(fd), limits_.files));
    }
  }
  return (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0;
}

void Stream::deliver() {
  if (std::exchange(delivering_, true)) return;
  while (open_ && reading_allowed() && deliver_one()) {}
  delivering_ = false;
  if (!open_ || !reading_allowed() || begin_ == end_) return;
  // The last byte belongs to a message that is not all here: so do the descriptors that came with it.
  std::ranges::move(last_fds_, std::back_inserter(fds_));
  last_fds_.clear();
  if (fds_.size() > max_fds) end(End::malformed);
}

/// Hands out the message at begin_; false when it is not all there.
bool Stream::deliver_one() {
  const auto header = load<Header>({input_.get() + begin_, end_ - begin_});
  if (!header) return false;
  if (header->size < sizeof *header || header->size > limits_.message) return end(End::malformed), false;
  if (end_ - begin_ < header->size) return false;
  Message message{*header, {input_.get() + begin_ + sizeof *header, header->size - sizeof *header}, {}};
  message.fds = std::exchange(fds_, {});
  begin_ += header->size;
  if (begin_ == end_) {
    std::ranges::move(last_fds_, std::back_inserter(message.fds));
    last_fds_.clear();
  }
  if (message.fds.size() > max_fds) return end(End::malformed), false;
  ++delivered_;
  received_(std::move(message));
  return true;
}

/// Arms the timer for a message that has begun, once; stops it when none has.
void Stream::watch_input() {
  if (!open_) return;
  if (begin_ == end_ || !reading_allowed()) {
    if (std::exchange(input_watched_, false)) input_timer_.cancel();
    return;
  }
  if (input_watched_ && watched_ == delivered_) return;
  input_watched_ = true;
  watched_ = delivered_;
  input_timer_.expires_after(limits_.stall);
  input_timer_.async_wait([self = shared_from_this(), message = delivered_](error_code error) {
    if (!error && self->input_watched_ && self->delivered_ == message) self->end(End::stalled);
  });
}

} // namespace smartio::vfio::user
