// What is remembered of a device is who it is, not where it is.
#include "core_restarted.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("a device that is still in its place is lent again at a start") {
  Restarted node;
  node.on(DeviceProbed{node.id, disk("A")});
  REQUIRE(node.find<OpenDevice>() != nullptr);
  CHECK(node.find<OpenDevice>()->who == disk("A").who);
  node.on(DeviceOpened{node.id, device("as VFIO says it")});
  CHECK(node.entry()["state"] == "available");
}

TEST_CASE("another device in a remembered place is not lent until that is said") {
  struct Row {
    Identity there;
    bool same;
  };
  for (const auto& row : std::vector<Row>{{disk("B"), false},
                                          {device("network"), false},
                                          {device("network", {{"nvme", "A"}}), false},
                                          {device("disk", {{"device", "1"}}, "vfio-pci"), true}}) {
    Restarted node;
    INFO(to_string(row.there.who));
    node.on(DeviceProbed{node.id, row.there});
    CHECK((node.find<OpenDevice>() != nullptr) == row.same);
    if (row.same) continue;
    CHECK(node.entry()["state"] == "unavailable");
    CHECK(node.reason().find("another device") != std::string::npos);
    node.on(DeviceAppeared{""}); // whatever is looked at again
    REQUIRE(node.find<ProbeDevice>() != nullptr);
    node.on(DeviceProbed{node.id, row.there});
    CHECK(node.find<OpenDevice>() == nullptr);
    node.command("available", "80000");
    REQUIRE(node.find<OpenDevice>() != nullptr);
    CHECK(node.find<OpenDevice>()->who == Who{});
    node.on(DeviceOpened{node.id, row.there});
    REQUIRE(node.find<Save>() != nullptr);
    CHECK(node.find<Save>()->line.find(row.there.who.kind) != std::string::npos);
    CHECK(node.show()["reason"].is_null());
  }
}

TEST_CASE("a number in vital product data tells two of a kind apart, and finds none in another slot") {
  Intent intent;
  intent.devices[0] = {slot, true, false, {"network", {{vpd_serial, "A1"}}}};
  Restarted node(std::move(intent));
  const auto there = device("network", {{vpd_serial, "B2"}}, "igb");
  node.on(DeviceProbed{node.id, there});
  CHECK(node.find<OpenDevice>() == nullptr);
  CHECK(node.reason().find("vpd serial B2; it was network, vpd serial A1") != std::string::npos);
  node.on(DevicesFound{{{elsewhere, {"network", {{vpd_serial, "A1"}}}}}});
  CHECK(node.entry()["address"] == slot);
  node.on(DeviceAppeared{slot});
  node.on(DeviceProbed{node.id, device("network", {}, "igb")}); // it could not be read
  CHECK(node.find<OpenDevice>() != nullptr);
}

TEST_CASE("a device of which nothing was remembered is remembered from when it is seen") {
  auto intent = Restarted::remembered();
  intent.devices[0].who = {};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, disk("A")});
  REQUIRE(node.find<Save>() != nullptr);
  CHECK(node.find<Save>()->line.find("\"A\"") != std::string::npos);
  CHECK(node.find<OpenDevice>() != nullptr);
}

TEST_CASE("a controller that has not said yet who it is waits until it has") {
  for (const char* serial : {"A", "B"}) {
    Restarted node;
    node.on(DeviceProbed{node.id, device("disk", {}, "")});
    CHECK(node.find<OpenDevice>() == nullptr);
    CHECK(node.reason().find("not known yet") != std::string::npos);
    node.on(DeviceIdentified{slot});
    REQUIRE(node.find<ProbeDevice>() != nullptr);
    node.on(DeviceProbed{node.id, disk(serial)});
    CHECK((node.find<OpenDevice>() != nullptr) == (std::string(serial) == "A"));
  }
}

TEST_CASE("a device that could not be opened is not tried again because its driver has it back") {
  Restarted node;
  node.on(DeviceProbed{node.id, disk("A")});
  node.on(DeviceOpened{node.id, fail(Errc::wrong_state, "stuck")});
  node.on(DeviceIdentified{slot});
  CHECK(node.find<ProbeDevice>() == nullptr);
}

TEST_CASE("a controller that says who it is while it is looked at is looked at again") {
  Restarted node;
  node.on(DeviceIdentified{slot});
  node.on(DeviceProbed{node.id, device("disk", {}, "")});
  REQUIRE(node.find<ProbeDevice>() != nullptr);
  node.on(DeviceProbed{node.id, disk("A")});
  CHECK(node.find<OpenDevice>() != nullptr);
}

TEST_CASE("a serial number that comes late is kept, and none is lost that a driver's absence hides") {
  Intent intent;
  intent.devices[0] = {slot, false, false, {"disk", {}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, device("disk", {}, "")});
  node.on(DeviceIdentified{slot});
  REQUIRE(node.find<ProbeDevice>() != nullptr);
  node.on(DeviceProbed{node.id, disk("A")});
  node.command("available", "80000");
  node.on(DeviceOpened{node.id, device("disk", {}, "vfio-pci")});
  node.command("unavailable", "80000");
  node.on(DeviceClosed{node.id, std::nullopt, "nvme"});
  node.on(DeviceAppeared{slot});
  node.on(DeviceProbed{node.id, disk("B")});
  CHECK(node.reason().find("another device") != std::string::npos);
}

TEST_CASE("what is lent although it was not known is not taken for what was there before") {
  Restarted node;
  node.on(DeviceProbed{node.id, device("disk", {}, "")});
  node.command("available", "80000");
  node.on(DeviceOpened{node.id, device("disk", {}, "vfio-pci")});
  REQUIRE(node.find<Save>() != nullptr);
  CHECK(node.find<Save>()->line.find("\"A\"") == std::string::npos);
}

TEST_CASE("a controller without a number whose opening fails is not tried for ever") {
  Intent intent;
  intent.devices[0] = {slot, true, false, {"disk", {}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, device("disk")});
  node.on(DeviceOpened{node.id, fail(Errc::wrong_state, "stuck")});
  node.on(DeviceIdentified{slot}); // its driver has it back
  CHECK(node.find<ProbeDevice>() == nullptr);
  node.on(DeviceAppeared{slot});
  CHECK(node.find<ProbeDevice>() != nullptr);
}

TEST_CASE("a device that is unbound twice is let go of twice, and while it is opened at once") {
  Restarted node;
  node.on(DeviceProbed{node.id, disk("A")});
  node.on(DeviceOpened{node.id, disk("A")});
  for (int i = 0; i < 2; ++i) {
    node.on(DeviceVanished{slot, "unbound"});
    REQUIRE(node.find<CloseDevice>() != nullptr);
    node.on(DeviceClosed{node.id, std::nullopt, ""});
    node.command("available", "80000");
    if (i == 0) node.on(DeviceOpened{node.id, disk("A")});
  }
  node.on(DeviceVanished{slot, "unbound"});
  node.on(DeviceOpened{node.id, disk("A")});
  CHECK(node.find<CloseDevice>() != nullptr);
  REQUIRE(node.find<Reply>() != nullptr);
  CHECK_FALSE(node.find<Reply>()->result);
}

TEST_CASE("a device behind a socket that another server serves now is not lent by itself") {
  Intent intent;
  intent.devices[0] = {"vfio-user:/d", true, false, {"disk", {}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, device("network", {}, "")});
  CHECK(node.find<OpenDevice>() == nullptr);
  CHECK(node.find<FindDevices>() == nullptr);
  node.command("available", "80000");
  node.on(DeviceOpened{node.id, device("network", {}, "")});
  node.on(DeviceLost{node.id, "its server ended"});
  node.on(DeviceAppeared{"vfio-user:/d"});
  node.on(DeviceClosed{node.id, std::nullopt, ""});
  REQUIRE(node.find<OpenDevice>() != nullptr);
  CHECK(node.find<OpenDevice>()->who.kind == "network");
}

TEST_CASE("a server that is added under another name is the device that it is already") {
  Lender node;
  node.command("add", {{"device", "vfio-user:/link"}});
  REQUIRE(node.find<ProbeDevice>() != nullptr);
  CHECK(node.find<ProbeDevice>()->is_new);
  node.on(DeviceProbed{node.second, fail(Errc::wrong_state, "not asked"), "vfio-user:/d"});
  REQUIRE(node.find<Reply>() != nullptr);
  REQUIRE(node.find<Reply>()->result);
  CHECK((*node.find<Reply>()->result)["device"] == "80000");
  CHECK(node.find<Reply>()->note ==
        "vfio-user:/link leads to the server of vfio-user:/d, which is device 80000 already");
  REQUIRE(node.find<ForgetDevice>() != nullptr);
  CHECK(node.find<ForgetDevice>()->device == node.second);
  CHECK(node.count<Save>() == 0);
  CHECK(node.node.list_document()["devices"].size() == 1);
  CHECK(node.state() == "available");
}

TEST_CASE("who adds a server under two names at once gets one device, or the same error twice") {
  for (const bool fails : {false, true}) {
    Lender node;
    node.command("add", {{"device", "vfio-user:/new"}});
    node.on(Command{2, 9, "add", Json{{"device", "vfio-user:/link"}}});
    const auto third = node.find<ProbeDevice>()->device;
    node.on(DeviceProbed{third, fail(Errc::wrong_state, "not asked"), "vfio-user:/new"});
    CHECK(node.count<Reply>() == 0);
    if (fails)
      node.on(DeviceProbed{node.second, fail(Errc::peer_down, "gone")});
    else
      node.on(DeviceProbed{node.second, Identity{.vendor = 1, .name = "Disk"}});
    CHECK(node.count<Reply>() == 2);
    for (const auto& effect : node.effects)
      if (const auto* reply = std::get_if<Reply>(&effect)) CHECK(reply->result.has_value() == !fails);
    CHECK(node.node.list_document()["devices"].size() == (fails ? 1 : 2));
  }
}

TEST_CASE("a server whose other name is removed before that is answered is looked at again, and added") {
  Lender node;
  node.command("unavailable", {{"device", "80000"}});
  node.on(DeviceClosed{node.id, std::nullopt, ""});
  node.command("add", {{"device", "vfio-user:/link"}});
  node.command("remove", {{"device", "80000"}});
  node.on(DeviceProbed{node.second, fail(Errc::wrong_state, "not asked"), "vfio-user:/d"});
  REQUIRE(node.find<ProbeDevice>() != nullptr);
  CHECK(node.find<ProbeDevice>()->address == "vfio-user:/link");
  node.on(DeviceProbed{node.second, Identity{.vendor = 1, .name = "Disk"}});
  CHECK(node.find<Reply>() != nullptr);
}

TEST_CASE("two remembered names of one server both stay, and the one that has it open has it alone") {
  Intent intent;
  intent.devices[0] = {.address = "vfio-user:/d", .available = true};
  intent.devices[1] = {.address = "vfio-user:/link", .available = true};
  Restarted node(std::move(intent));
  CHECK(!node.find<ProbeDevice>()->is_new);
  node.on(DeviceProbed{node.id, device("disk")});
  node.on(DeviceOpened{node.id, device("disk")});
  node.on(DeviceProbed{node.second, fail(Errc::wrong_state, "its server is that of 80000"), "vfio-user:/d"});
  CHECK(node.find<OpenDevice>() == nullptr);
  CHECK(node.entry(1)["state"] == "unavailable");
  node.command("show", "80001");
  CHECK((*node.find<Reply>()->result)["reason"].get<std::string>().find("that of 80000") != std::string::npos);
  node.on(DeviceAppeared{"vfio-user:/link"});
  node.on(DeviceProbed{node.second, device("disk")});
  CHECK(node.find<OpenDevice>() != nullptr);
}
