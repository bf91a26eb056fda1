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
  REQUIRE(node.find<FindDevice>() != nullptr);
  CHECK(node.find<FindDevice>()->who == disk("A").who);
  node.on(DeviceFound{node.id, elsewhere});
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

TEST_CASE("two devices that have changed places keep their ids") {
  auto intent = Restarted::remembered();
  intent.devices[1] = {elsewhere, true, false, {"disk", {{"nvme", "B"}}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, disk("B")});
  node.on(DeviceProbed{node.second, disk("A")});
  node.on(DeviceFound{node.id, elsewhere});
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
  node.on(DeviceFound{node.id, elsewhere});
  CHECK(node.entry(0)["address"] == slot);
  CHECK(node.reason().find("80001") != std::string::npos);
}

TEST_CASE("a device that was pulled out is looked for at each function that appears or says who it is") {
  Restarted node;
  node.on(DeviceProbed{node.id, disk("A")});
  node.on(DeviceOpened{node.id, disk("A")});
  node.on(DeviceAppeared{elsewhere});
  CHECK(node.find<FindDevice>() == nullptr);
  node.on(DeviceVanished{slot, "pulled out"});
  node.on(DeviceFound{node.id, elsewhere}); // too early: it is being closed
  CHECK(node.entry()["address"] == slot);
  node.on(DeviceClosed{node.id, std::nullopt, ""});
  CHECK(node.find<FindDevice>() != nullptr);
  node.on(DeviceFound{node.id, std::nullopt});
  node.on(DeviceAppeared{elsewhere});
  CHECK(node.find<FindDevice>() != nullptr);
  node.on(DeviceIdentified{elsewhere});
  CHECK(node.find<FindDevice>() != nullptr);
  node.command("remove", "80000");
  node.on(DeviceAppeared{elsewhere});
  CHECK(node.find<FindDevice>() == nullptr);
}

TEST_CASE("a device behind a socket that another server serves now is not lent by itself") {
  Intent intent;
  intent.devices[0] = {"vfio-user:/d", true, false, {"disk", {}}};
  Restarted node(std::move(intent));
  node.on(DeviceProbed{node.id, device("network", {}, "")});
  CHECK(node.find<OpenDevice>() == nullptr);
  CHECK(node.find<FindDevice>() == nullptr);
  node.command("available", "80000");
  node.on(DeviceOpened{node.id, device("network", {}, "")});
  node.on(DeviceLost{node.id, "its server ended"});
  node.on(DeviceAppeared{"vfio-user:/d"});
  node.on(DeviceClosed{node.id, std::nullopt, ""});
  REQUIRE(node.find<OpenDevice>() != nullptr);
  CHECK(node.find<OpenDevice>()->who.kind == "network");
}
