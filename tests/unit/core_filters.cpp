// Filters: which devices they add, make available and leave alone.
#include "core_lender.hpp"
#include "result.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("a filter adds what matches, now and later, but nothing that was removed by hand") {
  Lender lender;
  lender.command("add-filter", {{"ids", "::0108"}, {"slot", ""}});
  REQUIRE(lender.find<ScanHost>() != nullptr);
  const auto first = lender.find<ScanHost>()->request;
  CHECK(lender.find<Reply>() == nullptr);
  lender.on(HostScanned{first, {{{"0000:06:00.0", "0000:07:00.0"}}}});
  CHECK(lender.count<ProbeDevice>() == 2);
  lender.on(DeviceProbed{DeviceId{0x80001}, Identity{.vendor = 1, .name = "Disk"}});
  CHECK(lender.find<Reply>() == nullptr);
  lender.on(DeviceProbed{DeviceId{0x80002}, Identity{.vendor = 1, .name = "Disk"}});
  REQUIRE(lender.find<Reply>() != nullptr);
  CHECK(lender.find<Reply>()->result.value()["devices"] == Json{"80001", "80002"});

  lender.command("available-filter", {{"ids", "::0108"}, {"slot", ""}});
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{{"0000:06:00.0", "0000:07:00.0"}}}});
  CHECK(lender.count<OpenDevice>() == 2);
  lender.on(DeviceOpened{DeviceId{0x80001}, Identity{.vendor = 1, .name = "Disk"}});
  lender.on(DeviceOpened{DeviceId{0x80002}, fail(Errc::busy, "mounted")});
  CHECK(lender.find<Reply>()->result.error().code == Errc::busy); // the rule is kept all the same
  CHECK(lender.node.status_document()["filters"].size() == 2);

  lender.command("remove", {{"device", "80002"}});
  lender.on(DeviceAppeared{"0000:08:00.0"});
  REQUIRE(lender.find<ScanHost>()->rules.size() == 2);
  const std::vector<std::string> all{"0000:06:00.0", "0000:07:00.0", "0000:08:00.0"};
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{all, all}}});
  REQUIRE(lender.count<ProbeDevice>() == 1);
  CHECK(lender.find<ProbeDevice>()->address == "0000:08:00.0");
  lender.on(DeviceProbed{lender.second, Identity{.vendor = 1, .name = "Disk"}}); // not asked for
  lender.on(DeviceProbed{DeviceId{0x80002}, Identity{.vendor = 1, .name = "Disk"}});
  CHECK(lender.find<OpenDevice>() != nullptr); // the other rule makes it available

  lender.command("remove-filter", {{"ids", "::0108"}, {"slot", ""}});
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{all}}});
  CHECK(lender.node.status_document()["filters"].empty());
}

TEST_CASE("a filter that is none changes nothing") {
  Lender lender;
  lender.command("add-filter", {{"ids", ""}, {"slot", ""}});
  CHECK(lender.find<Reply>()->result.error().code == Errc::bad_request);
  lender.command("add-filter", {{"ids", "nonsense"}, {"slot", ""}});
  lender.on(HostScanned{lender.find<ScanHost>()->request, fail(Errc::bad_request, "no filter")});
  CHECK(lender.find<Reply>()->result.error().code == Errc::bad_request);
  CHECK(lender.node.status_document()["filters"].empty());
}

TEST_CASE("removing a filter removes its unused devices, and is no failure for those in use") {
  Lender lender;
  lender.add("0000:06:00.0");
  lender.command("add", {{"device", "0000:07:00.0"}});
  lender.on(DeviceProbed{DeviceId{0x80002}, Identity{.vendor = 1, .name = "Disk"}});
  lender.command("remove-filter", {{"ids", "::0108"}, {"slot", ""}});
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{{"0000:06:00.0", "0000:07:00.0"}}}});
  REQUIRE(lender.find<Reply>() != nullptr);
  REQUIRE(lender.find<Reply>()->result.has_value());
  CHECK(lender.find<Reply>()->result.value()["devices"] == Json::array({"80002"}));
  CHECK(lender.state(1) == "available");
}

TEST_CASE("where it is not known which functions have come or gone, those are looked at that are not open") {
  Lender lender;
  lender.add("0000:06:00.0"); // open: the kernel itself tells of it
  lender.command("add", {{"device", "0000:07:00.0"}});
  const auto listed = lender.find<ProbeDevice>()->device;
  lender.on(DeviceProbed{listed, Identity{.vendor = 1, .name = "Disk"}});
  lender.command("add", {{"device", "vfio-user:/e"}});
  lender.on(DeviceProbed{lender.find<ProbeDevice>()->device, Identity{.vendor = 1, .name = "Disk"}});
  const auto gone = [&lender] {
    lender.command("show", {{"device", "80002"}});
    return lender.find<Reply>()->result.value()["reason"].dump().find("pulled out") != std::string::npos;
  };
  lender.on(DeviceAppeared{});
  REQUIRE(lender.count<ProbeDevice>() == 1);
  CHECK(lender.find<ProbeDevice>()->device == listed);
  lender.on(DeviceProbed{listed, fail(Errc::no_such_device, "it was pulled out")});
  CHECK(gone());
  lender.on(DeviceAppeared{});
  REQUIRE(lender.count<ProbeDevice>() == 1);
  lender.on(DeviceProbed{listed, Identity{.vendor = 1, .name = "Disk"}});
  CHECK_FALSE(gone());
}
