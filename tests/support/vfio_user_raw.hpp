// One end of a vfio-user socket, byte by byte, for tests that say what no decent program would. The other end runs on
// an event loop in the same thread; waiting here means running it.
#pragma once

#include "catch.hpp"
#include "fd.hpp"
#include "user/wire.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <string_view>
#include <sys/socket.h>
#include <vector>

namespace smartio::test {

using Bytes = std::vector<std::byte>;
using vfio::user::Command;
using vfio::user::Header;

/// Runs the loop until `wanted` holds; fails the test after `limit`.
inline void run_until(boost::asio::io_context& io, const std::function<bool()>& wanted,
                      std::chrono::milliseconds limit = std::chrono::seconds(60)) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!wanted()) {
    if (std::chrono::steady_clock::now() > end) FAIL("not in time");
    if (io.stopped()) io.restart();
    io.run_one_for(std::chrono::milliseconds(5));
  }
}

/// Runs what is ready now.
inline void settle(boost::asio::io_context& io) {
  if (io.stopped()) io.restart();
  while (io.poll() != 0) {}
}

inline std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

template <class... Parts> Bytes join(const Parts&... parts) {
  Bytes all;
  const auto add = [&all](const auto& part) {
    const auto more = std::as_bytes(std::span(part));
    all.insert(all.end(), more.begin(), more.end());
  };
  (add(parts), ...);
  return all;
}

template <class T> Bytes raw(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

inline Bytes message(Command command, const Bytes& payload = {}, std::uint16_t id = 1, std::uint32_t flags = 0,
                     std::uint32_t error = 0) {
  const Header header{id, command, static_cast<std::uint32_t>(sizeof(Header) + payload.size()), flags, error};
  return join(raw(header), payload);
}

inline Bytes version(std::string_view json, std::uint16_t major = 0, std::uint16_t minor = 1) {
  Bytes payload = join(raw(vfio::user::VersionNumber{major, minor}), json);
  if (!json.empty()) payload.push_back(std::byte{0});
  return payload;
}

inline Bytes region_read(std::uint64_t offset, std::uint32_t region, std::uint32_t count) {
  return raw(vfio::user::AccessBody{offset, region, count});
}

class Raw {
public:
  struct Got {
    Header header;
    Bytes payload;
    std::vector<Fd> fds;
    bool failed() const { return (header.flags & vfio::user::flag_error) != 0; }
  };

  /// One end is returned in the second place, for the loop; this is the other.
  static std::pair<Raw, boost::asio::local::stream_protocol::socket> pair(boost::asio::io_context& io) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    boost::asio::local::stream_protocol::socket socket(io, boost::asio::local::stream_protocol(), ends[1]);
    return {Raw(io, Fd(ends[0])), std::move(socket)};
  }
  Raw(boost::asio::io_context& io, Fd socket) : io_(&io), socket_(std::move(socket)) {}

  /// Sends everything, running the loop while the other end must make room. False when it has closed.
  bool send(std::span<const std::byte> bytes, std::vector<int> fds = {}) {
    while (!bytes.empty()) {
      const auto sent = send_some(bytes, fds);
      if (sent < 0 && errno != EAGAIN) return false;
      if (sent > 0) {
        bytes = bytes.subspan(static_cast<std::size_t>(sent));
        fds.clear();
      }
      settle(*io_);
    }
    return true;
  }

  /// The next message; nullopt when the other end has closed.
  std::optional<Got> receive() {
    Got got;
    Bytes head;
    if (!read(head, sizeof(Header), got.fds)) return std::nullopt;
    std::memcpy(&got.header, head.data(), sizeof got.header);
    REQUIRE(got.header.size >= sizeof(Header));
    if (!read(got.payload, got.header.size - sizeof(Header), got.fds)) return std::nullopt;
    return got;
  }

  std::optional<Got> ask(const Bytes& bytes, std::vector<int> fds = {}) {
    if (!send(bytes, std::move(fds))) return std::nullopt;
    return receive();
  }

  /// Whether the other end closes without a further word.
  bool closed() { return !receive(); }
  /// Whether nothing comes, with all that is ready done.
  bool silent() {
    settle(*io_);
    std::byte one;
    return ::recv(socket_.get(), &one, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
  }
  void close() { socket_.reset(); }
  int fd() const { return socket_.get(); }

private:
  ssize_t send_some(std::span<const std::byte> bytes, const std::vector<int>& fds) {
    alignas(cmsghdr) std::byte control[CMSG_SPACE(64 * sizeof(int))]{};
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr out{};
    out.msg_iov = &part;
    out.msg_iovlen = 1;
    if (!fds.empty()) {
      out.msg_control = control;
      out.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
      auto* head = CMSG_FIRSTHDR(&out);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(head), fds.data(), fds.size() * sizeof(int));
    }
    return ::sendmsg(socket_.get(), &out, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  bool read(Bytes& into, std::size_t size, std::vector<Fd>& fds) {
    bool open = true;
    while (open && into.size() < size) {
      run_until(*io_, [&] { return readable(); });
      open = read_some(into, size - into.size(), fds);
    }
    return open;
  }
  bool readable() {
    std::byte one;
    return ::recv(socket_.get(), &one, 1, MSG_DONTWAIT | MSG_PEEK) >= 0 || errno != EAGAIN;
  }
  bool read_some(Bytes& into, std::size_t most, std::vector<Fd>& fds) {
    alignas(cmsghdr) std::byte control[CMSG_SPACE(64 * sizeof(int))];
    Bytes bytes(most);
    iovec part{bytes.data(), bytes.size()};
    msghdr in{};
    in.msg_iov = &part;
    in.msg_iovlen = 1;
    in.msg_control = control;
    in.msg_controllen = sizeof control;
    const auto got = ::recvmsg(socket_.get(), &in, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got <= 0) return false;
    for (auto* head = CMSG_FIRSTHDR(&in); head != nullptr; head = CMSG_NXTHDR(&in, head))
      for (std::size_t i = 0; i < (head->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
        fds.emplace_back(fd);
      }
    into.insert(into.end(), bytes.begin(), bytes.begin() + got);
    return true;
  }

  boost::asio::io_context* io_;
  Fd socket_;
};

} // namespace smartio::test
