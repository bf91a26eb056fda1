// A node's decisions as tables: events in, effects out.
#include "node.hpp"
#include "range_allocator.hpp"
#include "resolver.hpp"
#include "result.hpp"

#include "catch.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::core;

namespace {

const std::string nonce(64, 'b');

/// Node 8 with one device, 80000, available, and node 4 connected as its borrower on link 16.
struct Lender {
  Node node{
      {.node = NodeId{8}, .boot_id = "here", .fabric_socket = "/run/8/fabric.sock", .nonce = std::string(64, 'a')}, {}};
  std::vector<Effect> effects;

  void on(Event event) { effects = node.handle(std::move(event), Time{}); }
  void command(const char* name, Json arguments) { on(Command{1, 9, name, std::move(arguments)}); }
  template <class T> const T* find() const {
    for (const auto& effect : effects)
      if (const auto* found = std::get_if<T>(&effect)) return found;
    return nullptr;
  }
  template <class T> const T* sent() const {
    for (const auto& effect : effects)
      if (const auto* send = std::get_if<Send>(&effect))
        if (const auto* message = std::get_if<T>(&send->message)) return message;
    return nullptr;
  }
  template <class T> std::size_t count() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(effects, [](const auto& e) { return std::holds_alternative<T>(e); }));
  }
  std::string state(std::size_t index = 0) const {
    return node.list_document()["devices"][index]["state"].get<std::string>();
  }
  /// One more device, of this host, available.
  void add(const char* address, unsigned group = 1) {
    command("add", {{"device", address}});
    const auto added = find<ProbeDevice>()->device;
    const Identity identity{.vendor = 1, .name = "Disk", .iommu_group = group};
    on(DeviceProbed{added, identity});
    command("available", {{"device", address}});
    on(DeviceOpened{added, identity});
  }

  Lender() {
    on(Started{});
    command("connect", {{"node", 4}, {"address", "h:1"}});
    on(Dialled{NodeId{4}, 16, nonce});
    on(Received{16, Hello{1, NodeId{4}, NodeId{8}, "here", "", nonce}});
    command("add", {{"device", "vfio-user:/d"}});
    on(DeviceProbed{id, Identity{.vendor = 1, .name = "Disk"}});
    command("available", {{"device", "80000"}});
    on(DeviceOpened{id, Identity{.vendor = 1, .name = "Disk"}});
  }
  const DeviceId id{0x80000}, second{0x80001};
};

} // namespace

TEST_CASE("a device is borrowed once, and the borrower's proof admits it") {
  Lender lender;
  CHECK(lender.state() == "available");
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  REQUIRE(lender.sent<Answer>() != nullptr);
  CHECK(lender.sent<Answer>()->code == Errc{});
  CHECK(lender.state() == "borrowed");
  CHECK(lender.node.admits({lender.id, 1}, nonce));
  CHECK_FALSE(lender.node.admits({lender.id, 2}, nonce));
  CHECK_FALSE(lender.node.admits({lender.id, 1}, std::string(64, 'c')));
  lender.on(Received{16, BorrowRequest{6, lender.id, false}});
  CHECK(lender.sent<Answer>()->code == Errc::busy);
}

TEST_CASE("whoever returned a device has been told its new state when the answer comes") {
  Lender lender;
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  lender.on(Received{16, ReturnRequest{6, lender.id, 1}});
  lender.on(LoanEnded{{lender.id, 1}, std::nullopt});
  std::vector<std::string> order;
  for (const auto& effect : lender.effects)
    if (const auto* send = std::get_if<Send>(&effect)) {
      if (const auto* devices = std::get_if<Devices>(&send->message))
        order.emplace_back(to_string(devices->changed.at(0).state));
      if (std::holds_alternative<Answer>(send->message)) order.emplace_back("answer");
    }
  CHECK(order == std::vector<std::string>{"available", "answer"});
}

TEST_CASE("an unavailable device is not lent") {
  Lender lender;
  lender.command("unavailable", {{"device", "80000"}});
  CHECK(lender.find<CloseDevice>() != nullptr);
  lender.on(Received{16, BorrowRequest{4, lender.id, false}}); // on its way to its driver
  CHECK(lender.sent<Answer>()->code == Errc::wrong_state);
  lender.on(DeviceClosed{lender.id, std::nullopt, "nvme"});
  CHECK(lender.find<Reply>()->result.has_value());
  CHECK(lender.state() == "unavailable");
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  CHECK(lender.sent<Answer>()->code == Errc::wrong_state);
}

TEST_CASE("a device that does not go back to its driver is quarantined, and tried again by the next command") {
  Lender lender;
  lender.command("unavailable", {{"device", "80000"}});
  lender.on(DeviceClosed{lender.id, Error{make_error_code(Errc::timed_out), "process 5 holds it"}, "vfio-pci"});
  CHECK_FALSE(lender.find<Reply>()->result.has_value());
  CHECK(lender.state() == "quarantined");
  lender.command("unavailable", {{"device", "80000"}});
  CHECK(lender.find<CloseDevice>() != nullptr);
  lender.on(DeviceClosed{lender.id, std::nullopt, "nvme"});
  CHECK(lender.state() == "unavailable");
}

TEST_CASE("a borrowed device is taken back before it becomes unavailable") {
  Lender lender;
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  lender.command("unavailable", {{"device", "80000"}});
  REQUIRE(lender.find<EndLoan>() != nullptr);
  CHECK(lender.find<CloseDevice>() == nullptr);
  CHECK_FALSE(lender.node.admits({lender.id, 1}, nonce));
  lender.on(TellClients{{lender.id, 1}});
  CHECK(lender.sent<TakenBack>() != nullptr);
  lender.on(Received{16, Released{lender.id, 1}});
  CHECK(lender.find<ClientsReleased>() != nullptr);
  lender.on(LoanEnded{{lender.id, 1}, std::nullopt});
  CHECK(lender.find<CloseDevice>() != nullptr);
  lender.on(DeviceClosed{lender.id, std::nullopt, {}});
  CHECK(lender.state() == "unavailable");
}

TEST_CASE("a lost link ends the loan, and the borrower is dialled again") {
  Lender lender;
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  lender.on(LinkDown{16, "cut"});
  CHECK(lender.find<EndLoan>() != nullptr);
  REQUIRE(lender.find<Arm>() != nullptr);
  lender.on(TellClients{{lender.id, 1}});
  CHECK(lender.find<ClientsReleased>() != nullptr); // there is nobody to tell
  lender.on(LoanEnded{{lender.id, 1}, std::nullopt});
  CHECK(lender.state() == "available");
  lender.on(TimerFired{{Timer::Kind::redial, 4}});
  CHECK(lender.find<Dial>() != nullptr);
}

TEST_CASE("a device that cannot be cleaned up is quarantined, and tried again only by force") {
  Lender lender;
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  lender.on(Received{16, ReturnRequest{6, lender.id, 1}});
  lender.on(LoanEnded{{lender.id, 1}, Error{make_error_code(Errc::timed_out), "reset"}});
  CHECK(lender.sent<Answer>() != nullptr);
  CHECK(lender.state() == "quarantined");
  lender.command("available", {{"device", "80000"}});
  CHECK(lender.find<OpenDevice>() == nullptr);
  lender.command("available", {{"device", "80000"}, {"force", true}});
  CHECK(lender.find<CloseDevice>() != nullptr);
  CHECK(lender.find<OpenDevice>() == nullptr);
  lender.on(DeviceClosed{lender.id, std::nullopt, {}});
  CHECK(lender.find<OpenDevice>() != nullptr);
}

TEST_CASE("a device that the kernel wants back is taken back and closed, and available again when it reappears") {
  Lender lender;
  lender.add("0000:06:00.0");
  lender.on(Received{16, BorrowRequest{5, lender.second, false}});
  lender.on(DeviceVanished{"0000:06:00.0", "it is being pulled out"});
  REQUIRE(lender.find<EndLoan>() != nullptr);
  lender.on(DeviceVanished{"0000:06:00.0", "it was pulled out"}); // the kernel says so twice
  CHECK(lender.effects.empty());
  lender.on(LoanEnded{{lender.second, 1}, Error{make_error_code(Errc::no_such_device), "it is gone"}});
  CHECK(lender.find<CloseDevice>() != nullptr);
  lender.on(DeviceClosed{lender.second, std::nullopt, {}});
  CHECK(lender.state(1) == "unavailable");
  lender.on(DeviceAppeared{"0000:06:00.0"});
  CHECK(lender.find<ProbeDevice>() != nullptr);
  lender.on(DeviceProbed{lender.second, Identity{.vendor = 1, .name = "Disk"}});
  CHECK(lender.find<OpenDevice>() != nullptr);
}

TEST_CASE("functions of one IOMMU group go to one borrower at a time") {
  Lender lender;
  for (const char* address : {"0000:06:00.0", "0000:06:00.1"}) lender.add(address, 14);
  lender.on(Received{16, BorrowRequest{5, DeviceId{0x80001}, false}});
  CHECK(lender.sent<Answer>()->code == Errc{});
  lender.on(Received{16, BorrowRequest{6, DeviceId{0x80002}, false}}); // the same borrower may have both
  CHECK(lender.sent<Answer>()->code == Errc{});
  lender.on(Received{16, ReturnRequest{7, DeviceId{0x80002}, 2}});
  lender.on(LoanEnded{{DeviceId{0x80002}, 2}, std::nullopt});
  lender.on(Command{1, 9, "borrow", {{"device", "80002"}}}); // node 8 itself is another one
  CHECK(lender.find<Reply>()->result.error().code == Errc::busy);
}

TEST_CASE("a shared device has as many borrowers as there are slices of its addresses") {
  Lender lender;
  lender.on(Received{16, BorrowRequest{1, lender.id, true}});
  const auto first = lender.sent<Answer>()->epoch;
  for (std::uint64_t number = 2; number <= iova_slices; ++number) {
    lender.on(Received{16, BorrowRequest{number, lender.id, true}});
    REQUIRE(lender.sent<Answer>()->code == Errc{});
  }
  const auto last = lender.sent<Answer>()->epoch;
  const auto before = lender.node.status_document();
  lender.on(Received{16, BorrowRequest{99, lender.id, true}});
  CHECK(lender.count<Send>() == 1);
  CHECK(lender.sent<Answer>()->number == 99);
  CHECK(lender.sent<Answer>()->code == Errc::busy);
  CHECK(lender.sent<Answer>()->message ==
        "device 80000 is shared by 32 borrowers, and there are addresses for no more");
  CHECK(lender.node.status_document() == before);
  CHECK(lender.node.admits({lender.id, last}, nonce));
  CHECK_FALSE(lender.node.admits({lender.id, last + 1}, nonce));

  lender.on(Received{16, ReturnRequest{100, lender.id, first}});
  lender.on(Received{16, BorrowRequest{101, lender.id, true}}); // its windows are still there: it waits
  CHECK(lender.sent<Answer>() == nullptr);
  lender.on(LoanEnded{{lender.id, first}, std::nullopt});
  lender.on(Received{16, BorrowRequest{102, lender.id, true}});
  CHECK(lender.sent<Answer>()->code == Errc::busy);
}

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

TEST_CASE("heartbeats go only while a loan exists") {
  Lender lender;
  CHECK(lender.sent<Heartbeat>() == nullptr);
  lender.on(Received{16, BorrowRequest{5, lender.id, false}});
  CHECK(lender.sent<Heartbeat>() != nullptr);
  lender.on(Received{16, ReturnRequest{6, lender.id, 1}});
  lender.on(LoanEnded{{lender.id, 1}, std::nullopt});
  lender.on(TimerFired{{Timer::Kind::silence, 16}}); // late: it was disarmed
  CHECK(lender.effects.empty());
}

TEST_CASE("a peer that is another node than expected, or of another version, is refused") {
  for (const auto& hello :
       {Hello{1, NodeId{5}, NodeId{8}, "", "", nonce}, Hello{2, NodeId{4}, NodeId{8}, "", "", nonce},
        Hello{1, NodeId{4}, NodeId{9}, "", "", nonce}, Hello{1, NodeId{8}, NodeId{8}, "", "", nonce}}) {
    Lender lender;
    lender.on(LinkDown{16, "cut"});
    lender.on(Dialled{NodeId{4}, 17, nonce});
    lender.on(Received{17, hello});
    CHECK(lender.sent<Refused>() != nullptr);
    CHECK(lender.find<Drop>() != nullptr);
  }
}

TEST_CASE("where device and memory meet, and where they cannot") {
  const NodeId lender{8}, borrower{4}, third{2};
  const auto route = [](NodeId device, NodeId memory, NodeId cpu, bool kernel, Fabric fabric) {
    return resolve({.device = device, .memory = memory, .cpu = cpu, .kernel_device = kernel}, fabric);
  };
  CHECK(route(lender, borrower, borrower, false, Fabric::local).value() == Route::descriptor);
  CHECK(route(lender, lender, borrower, true, Fabric::ntb).value() == Route::descriptor);
  CHECK(route(lender, borrower, borrower, true, Fabric::ntb).value() == Route::aperture);
  CHECK(route(lender, borrower, borrower, false, Fabric::ntb).error().code == Errc::not_permitted);
  CHECK(route(lender, borrower, borrower, true, Fabric::none).error().context.find("no common fabric") == 0);
  CHECK_FALSE(route(lender, third, borrower, true, Fabric::ntb).has_value());
}

namespace {

/// Node 4, on a host of its own, with node 8 lending device 80000 of its kernel's on link 16.
struct FarBorrower {
  Node node{{.node = NodeId{4}, .boot_id = "there", .nonce = std::string(64, 'a'), .bridges = {"0000:06:00.0"}}, {}};
  std::vector<Effect> effects;
  void on(Event event) { effects = node.handle(std::move(event), Time{}); }
  template <class T> const T* find() const {
    for (const auto& effect : effects)
      if (const auto* found = std::get_if<T>(&effect)) return found;
    return nullptr;
  }
  void bridge(bool up, unsigned peer = 8) {
    on(BridgeChanged{.address = "0000:06:00.0", .peer = NodeId(peer), .up = up, .reason = up ? "" : "it is silent"});
  }
  void borrow() { on(Command{1, 9, "borrow", {{"device", "80000"}}}); }
  void lender(const char* address) {
    on(Accepted{16, nonce});
    on(Received{16, Hello{1, NodeId{8}, NodeId{4}, "here", "/run/8/fabric.sock", nonce}});
    on(Received{16, Devices{{{DeviceId{0x80000}, address, "Disk", 1, 2, 3, DeviceState::available, {}}}, {}}});
  }
  Errc refusal() {
    borrow();
    const auto* reply = find<Reply>();
    return reply == nullptr ? Errc{} : static_cast<Errc>(reply->result.error().code.value());
  }
};

} // namespace

TEST_CASE("a node uses the bridges it was configured with, until it is told otherwise") {
  FarBorrower node;
  node.on(Started{});
  REQUIRE(node.find<UseBridges>() != nullptr);
  CHECK(node.find<UseBridges>()->addresses == std::vector<std::string>{"0000:06:00.0"});
  node.on(Command{1, 9, "config", {{"option", "ntb"}, {"value", "0000:07:00.0,vfio-user:/b.sock"}}});
  REQUIRE(node.find<UseBridges>() != nullptr);
  CHECK(node.find<UseBridges>()->addresses == std::vector<std::string>{"0000:07:00.0", "vfio-user:/b.sock"});
  node.on(Command{1, 9, "config", {{"option", "ntb"}, {"value", ""}}});
  CHECK(node.find<UseBridges>()->addresses.empty());
  node.on(Command{1, 9, "config", {{"option", "ntb"}, {"value", "no bridge"}}});
  CHECK(node.find<UseBridges>() == nullptr);
  CHECK_FALSE(node.find<Reply>()->result.has_value());
}

TEST_CASE("a device of another host is borrowed over the bridge that leads there, while it is up") {
  FarBorrower node;
  node.on(Started{});
  node.lender("0000:01:00.0");
  CHECK(node.refusal() == Errc::peer_down);
  node.bridge(true, 7); // to somebody else
  CHECK(node.refusal() == Errc::peer_down);
  node.bridge(false);
  node.bridge(true);
  CHECK(node.refusal() == Errc{});
  node.on(Received{16, Answer{1, 5, {}, {}}});
  REQUIRE(node.find<OpenLoan>() != nullptr);
  CHECK(node.find<OpenLoan>()->fabric == Fabric::ntb);
  CHECK(node.find<OpenLoan>()->link == 16);
}

TEST_CASE("what a bridge cannot carry is refused") {
  FarBorrower node;
  node.on(Started{});
  node.lender("vfio-user:/d");
  node.bridge(true);
  CHECK(node.refusal() == Errc::not_permitted);
}

TEST_CASE("when a bridge goes down, what is lent over it ends, and nothing else") {
  const bool far = GENERATE(true, false);
  Lender lender;
  lender.on(LinkDown{16, ""});
  lender.on(Dialled{NodeId{4}, 17, nonce});
  lender.on(Received{17, Hello{1, NodeId{4}, NodeId{8}, far ? "there" : "here", "", nonce}});
  lender.on(BridgeChanged{.address = "0000:06:00.0", .peer = NodeId{4}, .up = true});
  lender.on(Received{17, BorrowRequest{5, lender.id, false}});
  CHECK(lender.node.admits({lender.id, 1}, LinkId{17}));
  CHECK_FALSE(lender.node.admits({lender.id, 1}, LinkId{18}));
  if (GENERATE(true, false))
    lender.on(BridgeChanged{.address = "0000:06:00.0", .peer = NodeId{4}, .up = false, .reason = "it is silent"});
  else
    lender.command("config", {{"option", "ntb"}, {"value", "0000:07:00.0"}}); // another one from now on
  CHECK((lender.find<EndLoan>() != nullptr) == far);
  CHECK(lender.node.admits({lender.id, 1}, LinkId{17}) != far);
}
