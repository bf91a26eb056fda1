// Writing: one sendmsg for each message; what the socket does not take waits in a bounded queue.
#include "stream.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cassert>
#include <cerrno>
#include <sys/socket.h>
#include <utility>

namespace smartio::vfio::user {

using boost::system::error_code;

namespace {

using Part = std::span<const std::byte>;

/// Bytes sent, or -errno.
ssize_t send_parts(int socket, std::span<iovec> parts, std::span<const int> fds) {
  assert(fds.size() <= max_fds);
  alignas(cmsghdr) std::byte control[CMSG_SPACE(max_fds * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    auto* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
  }
  ssize_t sent;
  do sent = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

iovec borrowed(Part part) { return {const_cast<std::byte*>(part.data()), part.size()}; }

} // namespace

void Stream::send(Header header, Part head, Part tail, std::span<const int> fds) {
  if (!open_ || failed_) return;
  assert(head.size() + tail.size() <= max_message - sizeof header);
  header.size = static_cast<std::uint32_t>(sizeof header + head.size() + tail.size());
  const std::array<Part, 3> parts{bytes_of(header), head, tail};
  std::size_t sent = 0;
  if (output_.empty()) {
    std::array<iovec, 3> vectors;
    std::ranges::transform(parts, vectors.begin(), borrowed);
    const auto done = send_parts(socket_.native_handle(), vectors, fds);
    if (done < 0 && done != -EAGAIN) return end_later(End::closed);
    sent = done < 0 ? 0 : static_cast<std::size_t>(done);
  }
  if (sent < header.size) enqueue(parts, sent, sent == 0 ? fds : std::span<const int>());
}

void Stream::enqueue(std::span<const Part> parts, std::size_t skip, std::span<const int> fds) {
  Output output;
  for (auto part : parts) {
    const auto skipped = std::min(skip, part.size());
    output.bytes.insert(output.bytes.end(), part.begin() + static_cast<std::ptrdiff_t>(skipped), part.end());
    skip -= skipped;
  }
  for (const int fd : fds) {
    auto copy = duplicate(fd);
    if (!copy) return end_later(End::closed);
    output.fds.push_back(std::move(*copy));
  }
  queued_ += output.bytes.size();
  if (queued_ > limits_.output) return end_later(End::stalled);
  output_.push_back(std::move(output));
  watch_output();
  wait_writable();
}

void Stream::wait_writable() {
  if (!open_ || output_.empty() || std::exchange(waiting_writable_, true)) return;
  socket_.async_wait(Socket::wait_write, [self = shared_from_this()](error_code error) {
    self->waiting_writable_ = false;
    if (!error && self->open_) self->on_writable();
  });
}

void Stream::on_writable() {
  const bool was_allowed = reading_allowed();
  while (!output_.empty()) {
    auto& next = output_.front();
    std::vector<int> fds;
    for (const auto& fd : next.fds) fds.push_back(fd.get());
    auto rest = borrowed(Part(next.bytes).subspan(next.sent));
    const auto done = send_parts(socket_.native_handle(), {&rest, 1}, fds);
    if (done == -EAGAIN) break;
    if (done < 0) return end(End::closed);
    next.fds.clear();
    next.sent += static_cast<std::size_t>(done);
    queued_ -= static_cast<std::size_t>(done);
    output_timer_.cancel(); // the other end reads
    output_watched_ = false;
    if (next.sent == next.bytes.size()) output_.pop_front();
  }
  watch_output();
  wait_writable();
  if (!was_allowed && reading_allowed()) on_readable();
}

void Stream::watch_output() {
  if (!open_ || output_.empty() || std::exchange(output_watched_, true)) return;
  output_timer_.expires_after(limits_.stall);
  output_timer_.async_wait([self = shared_from_this()](error_code error) {
    // A timer that fired just before it was set again is not due.
    const bool due = self->output_timer_.expiry() <= std::chrono::steady_clock::now();
    if (!error && self->output_watched_ && due) self->end(End::stalled);
  });
}

} // namespace smartio::vfio::user
