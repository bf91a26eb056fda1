// Reading a device's configuration space, here and from another node.
#include "core_lender.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("a configuration space is read for a borrower, and asked of a lender") {
  Lender lender;
  lender.on(Received{16, ConfigRequest{5, lender.id, ConfigForm::raw}});
  REQUIRE(lender.find<ReadConfig>() != nullptr);
  lender.on(ConfigRead{lender.find<ReadConfig>()->request, std::string("8680")});
  CHECK(lender.sent<ConfigAnswer>()->hex == "8680");
  lender.on(Received{16, ConfigRequest{6, DeviceId{0x80077}, ConfigForm::raw}});
  CHECK(lender.sent<ConfigAnswer>()->code == Errc::no_such_device);

  lender.on(Accepted{17, nonce}); // node 4 lends too
  lender.on(Received{17, Hello{1, NodeId{4}, NodeId{8}, "here", "/f", nonce}});
  lender.on(
      Received{17, Devices{{DeviceEntry{.id = DeviceId{0x40000}, .address = "0000:01:00.0", .name = "Disk"}}, {}}});
  lender.command("config-space", {{"device", "40000"}, {"form", "emulated"}});
  REQUIRE(lender.sent<ConfigRequest>() != nullptr);
  const auto number = lender.sent<ConfigRequest>()->number;
  lender.on(Received{17, ConfigAnswer{number, "ff", {}, {}}});
  CHECK(lender.find<Reply>()->result.value()["hex"] == "ff");
  lender.on(Received{17, ConfigAnswer{number, "ff", {}, {}}}); // not asked for
  CHECK(lender.find<Drop>() != nullptr);
}

TEST_CASE("who waits for a configuration space learns that the lender is lost") {
  Lender lender;
  lender.on(Accepted{17, nonce});
  lender.on(Received{17, Hello{1, NodeId{4}, NodeId{8}, "here", "/f", nonce}});
  lender.on(
      Received{17, Devices{{DeviceEntry{.id = DeviceId{0x40000}, .address = "0000:01:00.0", .name = "Disk"}}, {}}});
  lender.command("config-space", {{"device", "40000"}, {"form", "raw"}});
  lender.on(LinkDown{17, "cut"});
  CHECK(lender.find<Reply>()->result.error().code == Errc::peer_down);
}
