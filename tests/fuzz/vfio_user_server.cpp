// A client that says anything to a served device.
#include "any_client.hpp"
#include "small_device.hpp"
#include "user/server.hpp"

#include <cstdlib>

using namespace smartio;
using namespace smartio::vfio::user;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static boost::asio::io_context io;
  static bool warm = false; // the loop has its own descriptors
  if (size == 0) return 0;
  const auto before = test::descriptors_now();
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
    test::AnyClient(client.get(), io).speak(std::as_bytes(std::span(data, size)));
    io.poll();
    while (!device->waiting.empty()) device->complete(device->waiting.size() - 1);
    io.poll();
    connection->close();
  }
  io.poll();
  if (std::exchange(warm, true) && test::descriptors_now() != before) std::abort();
  return 0;
}
