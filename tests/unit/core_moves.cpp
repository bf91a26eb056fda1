// A device that is found in another slot, and its entry.
#include "core_restarted.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("a device in another slot is found there, and its entry goes with it") {
  Restarted node;
  const bool replaced = GENERATE(false, true);
  node.on(DeviceProbed{node.id, replaced ? Result<Identity>(disk("B")) : fail(Errc::no_such_device, "none")});
  CHECK(node.find<FindDevices>() != nullptr);
  node.on(at(elsewhere, "A"));
  REQUIRE(node.find<ProbeDevice>() != nullptr);
  CHECK(node.find<ProbeDevice>()->address == elsewhere);
  REQUIRE(node.find<Save>() != nullptr);
  CHECK(node.find<Save>()->line.find(elsewhere) != std::string::npos);
  REQUIRE(node.find<Emit>() != nullptr);
  CHECK(node.find<Emit>()->event["event"] == "device-moved");
  CHECK(node.entry()["address"] == elsewhere);
  node.on(DeviceProbed{node.id, disk("A")});
  CHECK(node.find<OpenDevice>() != nullptr);
}

TEST_CASE("a device that cannot be told from others is not looked for in their places") {
  const auto elsewhere_too = "0000:0a:00.0";
  const auto moved = [&](const Who& remembered, std::vector<Seen> seen) {
    auto intent = Restarted::remembered();
    intent.devices[0].who = remembered;
    Restarted node(std::move(intent));
    node.on(DeviceProbed{node.id, fail(Errc::no_such_device, "none")});
    node.on(DevicesFound{std::move(seen)});
    return node.entry()["address"] != slot;
  };
  const auto a = disk("A").who;
  CHECK(moved(a, {{elsewhere, a}, {elsewhere_too, disk("B").who}}));
  CHECK_FALSE(moved(a, {{elsewhere, a}, {elsewhere_too, a}}));
  CHECK_FALSE(moved(a, {{elsewhere, {"other", a.serials}}}));
  CHECK(moved(a, {{elsewhere, {"disk", {{"nvme", "A"}, {"device", "1"}}}}})); // one more number
  CHECK_FALSE(
      moved({"disk", {{"device", "1"}}}, {{elsewhere, {"disk", {{"device", "1"}}}}})); // all its maker's have it
  CHECK_FALSE(moved({"disk", {}}, {{elsewhere, a}}));
  CHECK_FALSE(moved(a, {{elsewhere, {"disk", {}}}}));
}

TEST_CASE("where the buses have new numbers, a device whose place a bridge has taken is looked for") {
  Restarted node;
  node.on(DeviceProbed{node.id, fail(Errc::not_permitted, "a bridge")});
  CHECK(node.find<FindDevices>() != nullptr);
}

TEST_CASE("a device that cannot be looked at is neither there nor gone") {
  Restarted node;
  node.on(DeviceProbed{node.id, fail(Errc::no_such_device, "none")});
  node.on(DevicesFound{});
  node.on(DeviceAppeared{slot});
  node.on(DeviceProbed{node.id, fail(Errc::bad_request, "half there")});
  node.on(DevicesFound{});
  node.on(at(elsewhere, "A"));
  CHECK(node.entry()["address"] == elsewhere);
}

TEST_CASE("an entry does not take the place of another one of the same device") {
  auto intent = Restarted::remembered();
  intent.devices[1] = {elsewhere, true, false, {"disk", {{"nvme", "A"}}}};
  Restarted node(std::move(intent));
  for (const auto id : {node.id, node.second}) node.on(DeviceProbed{id, fail(Errc::no_such_device, "none")});
  node.on(at(elsewhere, "A"));
  CHECK(node.entry(0)["address"] == slot);
}

TEST_CASE("two devices that have changed places keep their ids") {
  auto intent = Restarted::remembered();
  intent.devices[1] = {elsewhere, true, false, {"disk", {{"nvme", "B"}}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, disk("B")});
  node.on(DeviceProbed{node.second, disk("A")});
  node.on(at(elsewhere, "A"));
  CHECK(node.entry(0)["address"] == elsewhere);
  CHECK(node.entry(1)["address"] == slot);
  node.command("show", slot); // each by its new address
  CHECK((*node.find<Reply>()->result)["device"]["id"] == "80001");
  node.command("show", elsewhere);
  CHECK((*node.find<Reply>()->result)["device"]["id"] == "80000");
  node.on(DeviceProbed{node.id, disk("A")});
  CHECK(node.find<OpenDevice>() != nullptr);
  node.on(DeviceProbed{node.second, disk("B")});
  CHECK(node.find<OpenDevice>() != nullptr);
}

TEST_CASE("a device that somebody added anew in its other slot is left there, and that is said") {
  auto intent = Restarted::remembered();
  intent.devices[1] = {elsewhere, true, false, {"disk", {{"nvme", "A"}}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.second, disk("A")});
  node.on(DeviceProbed{node.id, fail(Errc::no_such_device, "none")});
  node.on(at(elsewhere, "A"));
  CHECK(node.entry(0)["address"] == slot);
  CHECK(node.reason().find("80001") != std::string::npos);
}

TEST_CASE("a device that was pulled out is looked for at each function that appears or says who it is") {
  Restarted node;
  node.on(DeviceProbed{node.id, disk("A")});
  node.on(DeviceOpened{node.id, disk("A")});
  node.on(DeviceAppeared{elsewhere});
  CHECK(node.find<FindDevices>() == nullptr);
  node.on(DeviceVanished{slot, "pulled out"});
  node.on(at(elsewhere, "A")); // too early: it is being closed
  CHECK(node.entry()["address"] == slot);
  node.on(DeviceClosed{node.id, std::nullopt, ""});
  CHECK(node.find<FindDevices>() != nullptr);
  node.on(DevicesFound{});
  node.on(DeviceAppeared{elsewhere});
  CHECK(node.find<FindDevices>() != nullptr);
  node.on(DeviceIdentified{elsewhere}); // while the answer is outstanding
  CHECK(node.find<FindDevices>() == nullptr);
  node.on(DevicesFound{});
  CHECK(node.find<FindDevices>() != nullptr);
  node.on(DevicesFound{});
  CHECK(node.find<FindDevices>() == nullptr);
  node.command("remove", "80000");
  node.on(DeviceAppeared{elsewhere});
  CHECK(node.find<FindDevices>() == nullptr);
}
