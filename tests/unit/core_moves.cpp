// What is remembered of a device is who it is, not where it is.
#include "core_lender.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

const char* const slot = "0000:06:00.0";
const char* const elsewhere = "0000:09:00.0";

Identity device(const char* kind, std::map<std::string, std::string> serials = {}, const char* driver = "nvme") {
  return {.vendor = 1, .name = "Disk", .iommu_group = 1, .driver = driver, .who = {kind, std::move(serials)}};
}
Identity disk(const char* serial) { return device("disk", {{"nvme", serial}}); }

DevicesFound at(const char* address, const char* serial) { return {{{address, disk(serial).who}}}; }

/// A node that starts with a state file: a disk with serial number A in the slot, available.
struct Restarted {
  static Intent remembered() {
    Intent intent;
    intent.devices[0] = {slot, true, false, {"disk", {{"nvme", "A"}}}};
    return intent;
  }
  Node node;
  std::vector<Effect> effects;
  const DeviceId id{0x80000}, second{0x80001};

  explicit Restarted(Intent intent = remembered())
      : node({.node = NodeId{8}, .boot_id = "here", .nonce = std::string(64, 'a')}, std::move(intent)) {
    on(Started{});
  }
  void on(Event event) { effects = node.handle(std::move(event), Time{}); }
  void command(const char* name, const char* of) { on(Command{1, 9, name, Json{{"device", of}}}); }
  template <class T> const T* find() const {
    for (const auto& effect : effects)
      if (const auto* found = std::get_if<T>(&effect)) return found;
    return nullptr;
  }
  Json entry(std::size_t index = 0) const { return node.list_document()["devices"][index]; }
  std::string reason() { return show()["reason"].get<std::string>(); }
  Json show() {
    command("show", "80000");
    return *find<Reply>()->result;
  }
};

} // namespace

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
