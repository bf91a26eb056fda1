// A client that says anything to a served device, after a decent greeting or without one. The input is a sequence of
// messages: command, flags, descriptors, length, payload; or, with the top bit of the first byte, raw bytes.
#include "fd.hpp"
#include "small_device.hpp"
#include "user/server.hpp"
#include "user/version.hpp"
#include "user/wire.hpp"

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <sys/eventfd.h>
#include <sys/socket.h>

using namespace smartio;
using namespace smartio::vfio::user;

namespace {

using Bytes = std::vector<std::byte>;

void add(Bytes& bytes, std::span<const std::byte> more) { bytes.insert(bytes.end(), more.begin(), more.end()); }

Bytes message(Command command, std::uint32_t flags, std::span<const std::byte> payload) {
  Bytes bytes;
  const Header header{1, command, static_cast<std::uint32_t>(sizeof(Header) + payload.size()), flags, 0};
  add(bytes, bytes_of(header));
  add(bytes, payload);
  return bytes;
}

void send(int socket, const Bytes& bytes, std::size_t fds) {
  alignas(cmsghdr) std::byte control[CMSG_SPACE(32 * sizeof(int))]{};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr out{};
  out.msg_iov = &part;
  out.msg_iovlen = 1;
  const Fd eventfd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (fds != 0) {
    out.msg_control = control;
    out.msg_controllen = CMSG_SPACE(fds * sizeof(int));
    auto* head = CMSG_FIRSTHDR(&out);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(fds * sizeof(int));
    for (std::size_t i = 0; i < fds; ++i) {
      const int fd = eventfd.get();
      std::memcpy(CMSG_DATA(head) + i * sizeof fd, &fd, sizeof fd);
    }
  }
  static_cast<void>(::sendmsg(socket, &out, MSG_DONTWAIT | MSG_NOSIGNAL));
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

void speak(int socket, std::span<const std::byte> input, boost::asio::io_context& io) {
  const auto first = std::to_integer<unsigned>(input[0]);
  input = input.subspan(1);
  if ((first & 64) == 0) send(socket, message(Command::version, 0, encode_version(own_version)), 0);
  if ((first & 128) != 0) return send(socket, {input.begin(), input.end()}, first % 32);
  while (input.size() >= 4) {
    const auto byte = [input](std::size_t at) { return std::to_integer<unsigned>(input[at]); };
    const auto length = std::min<std::size_t>(byte(3), input.size() - 4);
    send(socket, message(static_cast<Command>(byte(0) % 20), byte(1), input.subspan(4, length)), byte(2) % 20);
    input = input.subspan(4 + length);
    if (length % 2 == 0) io.poll();
    std::byte sink[4096];
    while (::recv(socket, sink, sizeof sink, MSG_DONTWAIT) > 0) {}
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static boost::asio::io_context io;
  static bool warm = false; // the loop has its own descriptors
  if (size == 0) return 0;
  const auto before = open_descriptors();
  {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    const Fd client(ends[0]);
    Socket socket(io, boost::asio::local::stream_protocol(), ends[1]);
    Counters counters;
    const auto device = std::make_shared<test::SmallDevice>();
    if (data[0] % 3 == 1) device->manner = test::SmallDevice::Manner::later;
    if (data[0] % 3 == 2) device->manner = test::SmallDevice::Manner::dropped;
    const auto connection = Connection::start(std::move(socket), device, counters, [] {});
    io.restart();
    speak(client.get(), std::as_bytes(std::span(data, size)), io);
    io.poll();
    while (!device->waiting.empty()) device->complete(device->waiting.size() - 1);
    io.poll();
    connection->close();
  }
  io.poll();
  if (std::exchange(warm, true) && open_descriptors() != before) std::abort();
  return 0;
}
