// Filters: which devices they add, make available and leave alone.
#include "core_restarted.hpp"
#include "result.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

using Addresses = std::vector<std::string>;

Json rule(const char* ids) { return {{"ids", ids}, {"slot", ""}}; }

/// A lender whose filters match what the test says.
struct Filtering : Lender {
  void filter(const char* command_name, const char* ids, const Addresses& matches) {
    command(command_name, rule(ids));
    std::vector<Addresses> all(find<ScanHost>()->rules.size());
    all.front() = matches;
    on(HostScanned{find<ScanHost>()->request, std::move(all)});
  }
  /// These ids are disks.
  void probed(std::initializer_list<std::uint32_t> ids) {
    for (const auto number : ids) on(DeviceProbed{DeviceId{number}, Identity{.vendor = 1, .name = "Disk"}});
  }
  const Reply& answer() const {
    REQUIRE(find<Reply>() != nullptr);
    return *find<Reply>();
  }
};

} // namespace

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

TEST_CASE("removing a filter removes what it has added, and is no failure for what somebody wants still") {
  const Addresses all{"0000:05:00.0", "0000:06:00.0", "0000:07:00.0", "0000:08:00.0", "0000:09:00.0"};
  Filtering lender;
  lender.add("0000:06:00.0"); // and available
  lender.command("add", {{"device", "0000:05:00.0"}});
  lender.probed({0x80002});
  lender.filter("add-filter", "::0108", all);
  lender.probed({0x80003, 0x80004, 0x80005});
  lender.filter("add-filter", "10de::", {"0000:08:00.0"});
  lender.command("add", {{"device", "0000:09:00.0"}}); // it is there already, and stays there now

  lender.command("remove-filter", rule("::0108"));
  REQUIRE(lender.find<ScanHost>()->rules.size() == 2); // what else adds devices
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{all, {"0000:08:00.0"}}}});
  CHECK(lender.answer().result.value()["devices"] == Json::array({"80003"}));
  CHECK(lender.answer().note ==
        "device 80002 stays: it was added by hand; device 80001 stays: it was added by hand; "
        "device 80004 stays: another filter adds it, too; device 80005 stays: it was added by hand");
  lender.filter("remove-filter", "10de::", {"0000:08:00.0"});
  CHECK(lender.answer().result.value()["devices"] == Json::array({"80004"}));
}

TEST_CASE("a filter's devices that are lent stay when it is removed") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {"0000:06:00.0"});
  lender.probed({0x80001});
  lender.command("available", {{"device", "80001"}});
  lender.on(DeviceOpened{lender.second, Identity{.vendor = 1, .name = "Disk"}});
  lender.filter("remove-filter", "::0108", {"0000:06:00.0"});
  CHECK(lender.answer().note == "device 80001 stays: it is available");
  CHECK(lender.state(1) == "available");
}

TEST_CASE("who has added a device is known after a restart, too") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {"0000:06:00.0", "0000:07:00.0"});
  lender.probed({0x80001, 0x80002});
  lender.command("add", {{"device", "0000:07:00.0"}});
  Restarted again(parse_intent(lender.node.state(), NodeId{8}).value());
  for (const auto number : {0x80001U, 0x80002U}) again.on(DeviceProbed{DeviceId{number}, Identity{.vendor = 1}});
  again.on(Command{1, 9, "remove-filter", rule("::0108")});
  again.on(HostScanned{again.find<ScanHost>()->request, {{{"0000:06:00.0", "0000:07:00.0"}}}});
  REQUIRE(again.find<Reply>() != nullptr);
  CHECK(again.find<Reply>()->result.value()["devices"] == Json::array({"80001"}));
}

TEST_CASE("a filter that there is not is not removed, and nothing with it") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {"0000:06:00.0"});
  lender.probed({0x80001});
  lender.filter("remove-filter", "1b36::", {"0000:06:00.0"});
  CHECK(lender.answer().result.error().code == Errc::no_such_device);
  CHECK(lender.node.status_document()["devices"].size() == 2);
  lender.filter("available-filter", "1b36::", {});
  lender.filter("remove-filter", "1b36::", {});
  CHECK(lender.answer().result);
}

TEST_CASE("a filter says which of its devices somebody has removed by hand") {
  const std::string said = "removed by hand, and not added again but with 'add': ";
  const Addresses both{"0000:06:00.0", "0000:07:00.0"};
  Filtering lender;
  lender.filter("add-filter", "10de::", both);
  lender.probed({0x80001, 0x80002});
  for (const auto* id : {"80001", "80002"}) lender.command("remove", {{"device", id}});
  lender.command("filters", Json::object());
  CHECK(lender.answer().result.value()["removed"] == Json(both));
  CHECK(lender.node.status_document()["removed"] == Json(both));

  lender.filter("add-filter", "::0108", {"0000:06:00.0"});
  CHECK(lender.answer().note == said + "0000:06:00.0");
  lender.command("scan", Json::object());
  CHECK(lender.find<ScanHost>()->rules.size() == 2);
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{{"0000:06:00.0"}, both}}});
  CHECK(lender.answer().note == said + "0000:06:00.0, 0000:07:00.0");
  lender.filter("available-filter", "::0108", {"0000:06:00.0"}); // is about devices that were added
  CHECK(lender.answer().note.empty());
}

TEST_CASE("a filter that is deleted while the host is looked at adds nothing") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {});
  lender.command("remove-filter", rule("::0108"));
  const auto removal = lender.find<ScanHost>()->request;
  lender.command("scan", Json::object());
  const auto scan = lender.find<ScanHost>()->request;
  lender.on(HostScanned{removal, {{{"0000:06:00.0"}}}});
  lender.on(HostScanned{scan, {{{"0000:06:00.0"}}}});
  CHECK(lender.count<ProbeDevice>() == 0);
  CHECK(lender.answer().result.value()["found"].empty());
}

TEST_CASE("what a filter that came meanwhile adds is there after another one is deleted") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {"0000:06:00.0"});
  lender.probed({0x80001});
  lender.command("add-filter", rule("10de::"));
  const auto addition = lender.find<ScanHost>()->request;
  lender.command("remove-filter", rule("::0108"));
  const auto removal = lender.find<ScanHost>()->request;
  lender.on(HostScanned{addition, {{{"0000:06:00.0"}}}});
  lender.on(HostScanned{removal, {{{"0000:06:00.0"}}}});
  REQUIRE(lender.find<ScanHost>() != nullptr);
  lender.on(HostScanned{lender.find<ScanHost>()->request, {{{"0000:06:00.0"}}}});
  CHECK(lender.count<ProbeDevice>() == 1);
}

TEST_CASE("of two filters that are deleted at once the second takes out what both have added") {
  Filtering lender;
  for (const char* ids : {"::0108", "10de::"}) lender.filter("add-filter", ids, {"0000:06:00.0"});
  lender.probed({0x80001});
  lender.command("remove-filter", rule("::0108"));
  const auto first = lender.find<ScanHost>()->request;
  lender.command("remove-filter", rule("10de::"));
  const auto second = lender.find<ScanHost>()->request;
  const std::vector<Addresses> both{{"0000:06:00.0"}, {"0000:06:00.0"}};
  lender.on(HostScanned{first, both});
  CHECK(lender.answer().note == "device 80001 stays: another filter adds it, too");
  lender.on(HostScanned{second, both});
  CHECK(lender.answer().result.value()["devices"] == Json::array({"80001"}));
}

TEST_CASE("removing a filter leaves what is just being looked at, and says so also where something fails") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {"0000:06:00.0", "0000:07:00.0"});
  lender.probed({0x80001});
  lender.command("remove", {{"device", "80002"}});
  CHECK(lender.answer().result.error().code == Errc::busy);
  lender.filter("remove-filter", "::0108", {"0000:06:00.0", "0000:07:00.0"});
  CHECK(lender.answer().result.value()["devices"] == Json::array({"80001"}));
  CHECK(lender.answer().note.starts_with("device 80002 stays: it is being added"));
}

TEST_CASE("a filter that only made devices available takes none out") {
  Filtering lender;
  lender.filter("add-filter", "::0108", {"0000:06:00.0"});
  lender.probed({0x80001});
  lender.filter("available-filter", "1b36::", {});
  lender.filter("remove-filter", "1b36::", {"0000:06:00.0"});
  CHECK(lender.answer().result.value()["devices"].empty());
  CHECK(lender.node.status_document()["devices"].size() == 2);
}

TEST_CASE("filters look at every device that was added, wherever it is") {
  Filtering lender;
  lender.add("0000:06:00.0");
  lender.command("available-filter", rule("1:"));
  const auto& added = lender.find<ScanHost>()->added;
  REQUIRE(added.size() == 2);
  CHECK(added[0].address == "vfio-user:/d");
  CHECK(added[1].address == "0000:06:00.0");
  CHECK(added[0].vendor == 1);
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
