// A client of a vfio-user socket that says what a fuzzer's input tells, after a decent greeting or without one. The
// input is a first byte, then messages: command, flags, descriptors, length, payload; or, with that byte's top bit, raw
// bytes.
#pragma once

#include "fd.hpp"
#include "user/version.hpp"
#include "user/wire.hpp"

#include <boost/asio/io_context.hpp>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <vector>

namespace smartio::test {

class AnyClient {
public:
  AnyClient(int socket, boost::asio::io_context& io) : socket_(socket), io_(io) {}

  /// `input` is not empty. The loop runs between messages, now and then.
  void speak(std::span<const std::byte> input) {
    using namespace vfio::user;
    const auto first = std::to_integer<unsigned>(input[0]);
    input = input.subspan(1);
    if ((first & 64) == 0) send(message(Command::version, 0, encode_version(own_version)), 0);
    if ((first & 128) != 0) return send({input.begin(), input.end()}, first % 32);
    while (input.size() >= 4) {
      const auto byte = [input](std::size_t at) { return std::to_integer<unsigned>(input[at]); };
      const auto length = std::min<std::size_t>(byte(3), input.size() - 4);
      send(message(static_cast<Command>(byte(0) % 20), byte(1), input.subspan(4, length)), byte(2));
      input = input.subspan(4 + length);
      if (length % 2 == 0) io_.poll();
      std::byte sink[4096];
      while (::recv(socket_, sink, sizeof sink, MSG_DONTWAIT) > 0) {}
    }
  }

private:
  using Bytes = std::vector<std::byte>;

  static Bytes message(vfio::user::Command command, std::uint32_t flags, std::span<const std::byte> payload) {
    using namespace vfio::user;
    const Header header{1, command, static_cast<std::uint32_t>(sizeof(Header) + payload.size()), flags, 0};
    Bytes bytes;
    const auto add = [&bytes](std::span<const std::byte> more) { bytes.insert(bytes.end(), more.begin(), more.end()); };
    add(bytes_of(header));
    add(payload);
    return bytes;
  }

  /// With `fds` % 20 descriptors: of memory where its top bit is set, else of an event.
  void send(const Bytes& bytes, unsigned fds) {
    alignas(cmsghdr) std::byte control[CMSG_SPACE(32 * sizeof(int))]{};
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr out{};
    out.msg_iov = &part;
    out.msg_iovlen = 1;
    const int fd = fds >= 128 ? memory_.get() : event_.get();
    if (const std::size_t count = fds % 20; count != 0) {
      out.msg_control = control;
      out.msg_controllen = CMSG_SPACE(count * sizeof fd);
      auto* head = CMSG_FIRSTHDR(&out);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(count * sizeof fd);
      for (std::size_t i = 0; i < count; ++i) std::memcpy(CMSG_DATA(head) + i * sizeof fd, &fd, sizeof fd);
    }
    static_cast<void>(::sendmsg(socket_, &out, MSG_DONTWAIT | MSG_NOSIGNAL));
  }

  int socket_;
  boost::asio::io_context& io_;
  Fd event_ = Fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), memory_ = make_memfd("client", 1 << 24).value();
};

inline std::size_t descriptors_now() {
  signal_eventfd(-1); // the first signal of a process opens what stays
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

} // namespace smartio::test
