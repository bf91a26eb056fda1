// Ids and states as text, and the version.
#include <smartio/types.hpp>

#include "catch.hpp"

#include <sstream>

using namespace smartio;

namespace {
template <class T> std::string streamed(T value) {
  std::ostringstream out;
  out << value;
  return out.str();
}
} // namespace

TEST_CASE("ids of nodes and devices: no node 0, and a device is some node's") {
  CHECK(parse_node_id("65535").value() == NodeId{65535});
  for (const auto* text : {"0", "65536", "", "8x"}) CHECK_FALSE(parse_node_id(text));
  CHECK(parse_device_id("0x80002").value() == DeviceId{0x80002});
  CHECK(parse_device_id("ffffffff").value() == DeviceId{0xffffffff});
  for (const auto* text : {"2", "ffff", "100000000", "0x", "80002x"}) CHECK_FALSE(parse_device_id(text));
}

TEST_CASE("what is written is understood again") {
  for (const auto id : {DeviceId{0x10000}, DeviceId{0x80002}, DeviceId{0xffffffff}}) {
    CHECK(parse_device_id(to_string(id)).value() == id);
    CHECK(streamed(id) == to_string(id));
  }
  for (const auto node : {NodeId{1}, NodeId{65535}}) {
    CHECK(parse_node_id(to_string(node)).value() == node);
    CHECK(streamed(node) == to_string(node));
  }
  for (const auto state :
       {DeviceState::unavailable, DeviceState::available, DeviceState::borrowed, DeviceState::quarantined}) {
    CHECK(parse_device_state(to_string(state)) == state);
    CHECK(streamed(state) == to_string(state));
  }
  CHECK(to_string(DeviceId{0x80002}) == "80002");
  CHECK(to_string(NodeId{8}) == "8");
  CHECK(to_string(DeviceState::borrowed) == "borrowed");
}

TEST_CASE("a state that is not known has no number and no name of another") {
  CHECK(to_string(static_cast<DeviceState>(4)) == "unknown");
  for (const auto* text : {"", "unknown", "Available", "available "}) CHECK_FALSE(parse_device_state(text));
}

TEST_CASE("the library is of the version that its headers say") {
  const auto numbers = std::to_string(SMARTIO_VERSION_MAJOR) + '.' + std::to_string(SMARTIO_VERSION_MINOR) + '.' +
                       std::to_string(SMARTIO_VERSION_PATCH);
  CHECK(version() == numbers);
}
