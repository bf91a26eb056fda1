// A lender's decisions against a hostile peer: a stream of frames on a connection that it dialled, or that was
// accepted.
#include "device_message.hpp"
#include "frame.hpp"
#include "node.hpp"

#include <cstddef>
#include <cstdint>

using namespace smartio;
using namespace smartio::core;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Node node{{.node = NodeId{8}, .boot_id = "here", .fabric_socket = "/f", .nonce = std::string(64, 'a')}, {}};
  const Time now{};
  node.handle(Started{}, now);
  node.handle(Accepted{16, std::string(64, 'b')}, now);
  node.handle(Command{1, 0, "add", {{"device", "vfio-user:/d"}}}, now);
  node.handle(DeviceProbed{DeviceId{0x80000}, Identity{.vendor = 1, .name = "Disk"}}, now);
  FrameReader reader;
  reader.feed({reinterpret_cast<const char*>(data), size});
  for (auto frame = reader.next(); frame && *frame; frame = reader.next())
    if ((*frame)->kind == FrameKind::vfio_user) {
      const auto message = decode_device_message((*frame)->payload);
      if (message && encode(*message).size() != (*frame)->payload.size()) __builtin_trap();
    } else if (auto message = decode((*frame)->payload))
      node.handle(Received{16, std::move(*message)}, now);
  node.status_document();
  return 0;
}
