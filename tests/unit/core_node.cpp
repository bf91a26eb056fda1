// A lender's decisions as tables: events in, effects out.
#include "core_lender.hpp"
#include "range_allocator.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

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

TEST_CASE("a node that stops is idle when the last of its devices has ended its loan, not before") {
  Lender lender;
  lender.on(Received{16, BorrowRequest{1, lender.id, false}});
  lender.on(Stopping{});
  CHECK(lender.find<EndLoan>() != nullptr);
  CHECK(lender.find<Idle>() == nullptr);
  lender.on(LoanEnded{{lender.id, 1}, std::nullopt});
  CHECK(lender.find<Idle>() != nullptr);
}

TEST_CASE("a device of this host is opened with the names of all that may be bound with it") {
  Lender lender;
  lender.add("0000:06:00.0");
  lender.command("add", {{"device", "0000:06:00.1"}});
  lender.on(DeviceProbed{DeviceId{0x80002}, Identity{.vendor = 1, .name = "Disk", .iommu_group = 1}});
  lender.command("available", {{"device", "0000:06:00.1"}});
  REQUIRE(lender.find<OpenDevice>() != nullptr);
  const auto companions = lender.find<OpenDevice>()->companions;
  for (const char* address : {"0000:06:00.0", "0000:06:00.1"}) CHECK(std::ranges::count(companions, address) == 1);
  lender.command("add", {{"device", "vfio-user:/e"}});
  lender.on(DeviceProbed{DeviceId{0x80003}, Identity{.vendor = 1, .name = "Disk"}});
  lender.command("available", {{"device", "vfio-user:/e"}});
  REQUIRE(lender.find<OpenDevice>() != nullptr);
  CHECK(lender.find<OpenDevice>()->companions.empty()); // behind sockets there are no groups
}

TEST_CASE("a peer is told of devices after its hello, and not before it is known who that is") {
  Lender lender;
  lender.command("connect", {{"node", 5}, {"address", "h:5"}});
  lender.on(Dialled{NodeId{5}, 17, nonce});
  const auto told = [&lender](LinkId link) {
    return std::ranges::count_if(lender.effects, [link](const auto& effect) {
      const auto* send = std::get_if<Send>(&effect);
      return send != nullptr && send->link == link && std::holds_alternative<Devices>(send->message);
    });
  };
  lender.command("unavailable", {{"device", "80000"}});
  lender.on(DeviceClosed{lender.id, std::nullopt, ""});
  CHECK(told(16) == 1);
  CHECK(told(17) == 0);
  lender.on(Received{17, Hello{1, NodeId{5}, NodeId{8}, "here", "", nonce}});
  CHECK(told(17) == 1);
}

TEST_CASE("nobody goes on looking for the server of a device that was removed, or never could be added") {
  Lender lender;
  lender.command("unavailable", {{"device", "80000"}});
  CHECK(lender.find<ForgetDevice>() == nullptr);
  lender.on(DeviceClosed{lender.id, std::nullopt, "nvme"});
  lender.command("remove", {{"device", "80000"}});
  REQUIRE(lender.find<ForgetDevice>() != nullptr);
  CHECK(lender.find<ForgetDevice>()->device == lender.id);
  lender.command("add", {{"device", "vfio-user:/nothing"}});
  REQUIRE(lender.find<ProbeDevice>() != nullptr);
  const auto id = lender.find<ProbeDevice>()->device;
  lender.on(DeviceProbed{id, std::unexpected(Error{make_error_code(Errc::peer_down), "nobody serves it"})});
  REQUIRE(lender.find<ForgetDevice>() != nullptr);
  CHECK(lender.find<ForgetDevice>()->device == id);
}
