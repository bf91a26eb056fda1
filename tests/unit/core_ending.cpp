// How a loan ends, step by step: what may come only after what, at the lender and at the borrower, and who is touched.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

struct Start {
  const char* name;
  void (*begin)(Crossroads&);
  bool reachable = true; ///< the borrower, to be told
  bool lent_on = false;  ///< to who waits for it
};

const std::vector<Start> starts{
    {.name = "returned",
     .begin =
         [](Crossroads& node) {
           node.receive(four, ReturnRequest{1, node.first, 1});
         },
     .lent_on = true},
    {.name = "the connection is lost",
     .begin =
         [](Crossroads& node) {
           node.on(LinkDown{four, "cut"});
         },
     .reachable = false,
     .lent_on = true},
    {.name = "the peer says that it goes",
     .begin = [](Crossroads& node) { node.receive(four, Refused{"disconnected"}); },
     .reachable = false,
     .lent_on = true},
    {.name = "the peer is disconnected",
     .begin =
         [](Crossroads& node) {
           node.command("disconnect", {{"node", 4}});
         },
     .lent_on = true},
    {.name = "made unavailable",
     .begin =
         [](Crossroads& node) {
           node.command("unavailable", {{"device", "80000"}});
         }},
    {.name = "its server went away",
     .begin =
         [](Crossroads& node) {
           node.on(DeviceLost{node.first, "it crashed"});
         }},
    {.name = "a client left it unclean",
     .begin =
         [](Crossroads& node) {
           node.on(UseEnded{{node.first, 1}, Error{make_error_code(Errc::timed_out), "reset"}});
         }},
    {.name = "pulled out",
     .begin =
         [](Crossroads& node) {
           node.on(DeviceVanished{"vfio-user:/0", "it was pulled out"});
         }},
};

std::size_t granted(const Crossroads& node, LinkId link) {
  const auto answers = node.sent<Answer>(link);
  return static_cast<std::size_t>(std::ranges::count(answers, Errc{}, &Answer::code));
}

} // namespace

TEST_CASE("whatever ends a loan ends it by the device's own steps, and only then is the device anybody else's") {
  for (const auto& start : starts) {
    INFO(start.name);
    Crossroads node;
    const LoanId loan{node.first, node.lend(four, node.first)};
    const LoanId other{node.second, node.lend(five, node.second)};
    start.begin(node);
    REQUIRE(node.find<EndLoan>() != nullptr);
    CHECK(node.find<EndLoan>()->loan == loan);
    CHECK(node.find<EndLoan>()->last);
    CHECK(node.find<CloseDevice>() == nullptr);
    CHECK(node.sent<TakenBack>(four).empty()); // not before the device lets go of the memory
    CHECK_FALSE(node.node.admits(loan, four));
    CHECK(node.lend(five, node.first) == 0);

    node.on(TellClients{loan});
    CHECK(node.sent<TakenBack>(four).size() == (start.reachable ? 1 : 0));
    CHECK((node.find<ClientsReleased>() != nullptr) != start.reachable);
    node.receive(four, Released{loan.device, loan.epoch});
    CHECK((node.find<ClientsReleased>() != nullptr) == start.reachable);
    CHECK(node.find<CloseDevice>() == nullptr);
    CHECK(node.lend(five, node.first) == 0);
    CHECK(node.state(node.first) != "available");

    node.on(LoanEnded{loan, std::nullopt});
    CHECK(granted(node, five) == (start.lent_on ? 1 : 0)); // of all who waited
    CHECK(node.lend(five, node.first) == 0);
    CHECK(node.node.admits(other, five)); // all the while
    CHECK(node.state(node.second) == "borrowed");
  }
}

TEST_CASE("one share that ends takes nothing from the others; the last one takes the device") {
  Crossroads node;
  const LoanId one{node.first, node.lend(four, node.first, true)}, two{node.first, node.lend(five, node.first, true)},
      three{node.first, node.lend(four, node.first, true)};
  node.receive(four, ReturnRequest{1, one.device, one.epoch});
  CHECK(node.done() == "end 80000/1");
  CHECK(node.node.admits(two, five));
  CHECK(node.node.admits(three, four));
  CHECK(node.lend(five, node.first, true) == 0);  // nobody joins before it has ended
  CHECK(node.lend(five, node.first, false) == 0); // nor alone, while there are sharers
  node.on(LoanEnded{one, std::nullopt});
  CHECK(granted(node, five) == 1);
  CHECK(node.state(node.first) == "borrowed");
  const LoanId late{node.first, 4};
  node.on(LinkDown{five, "cut"}); // both of node 5's, and none of node 4's
  CHECK(node.done().find("end 80000/2, end 80000/4") != std::string::npos);
  CHECK(node.done().find("last") == std::string::npos);
  CHECK(node.node.admits(three, four));
  node.receive(four, ReturnRequest{2, three.device, three.epoch});
  CHECK(node.done() == "end 80000/3 last");
  for (const auto& loan : {two, three}) {
    node.on(LoanEnded{loan, std::nullopt});
    CHECK(node.state(node.first) == "borrowed");
  }
  node.on(LoanEnded{late, std::nullopt});
  CHECK(node.state(node.first) == "available");
}

TEST_CASE("a device that one has alone is not shared with another, nor the other way round") {
  for (const bool shared : {false, true}) {
    Crossroads node;
    node.lend(four, node.first, shared);
    CHECK(node.lend(five, node.first, !shared) == 0);
    CHECK(node.lend(four, node.first, !shared) == 0);
    CHECK((node.lend(five, node.first, shared) != 0) == shared);
  }
}

TEST_CASE("a shared device that is made unavailable is joined by nobody, and nobody waits for it") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first, true)};
  node.command("unavailable", {{"device", "80000"}});
  node.receive(five, BorrowRequest{1, node.first, true});
  CHECK(node.done() == "17: answer busy");
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.done() == "close 80000, 16: taken back 80000/1");
}

TEST_CASE("when a shared device fails, every share ends and every sharer is told") {
  Crossroads node;
  const LoanId one{node.first, node.lend(four, node.first, true)}, two{node.first, node.lend(five, node.first, true)};
  node.on(LoanEnded{one, Error{make_error_code(Errc::timed_out), "its windows stay reachable"}});
  CHECK(node.done().find("end 80000/2 last") == 0);
  CHECK(node.state(node.first) == "quarantined");
  CHECK_FALSE(node.node.admits(two, five));
  node.on(TellClients{two});
  CHECK(node.sent<TakenBack>(five).size() == 1);
  CHECK(node.sent<TakenBack>(four).empty());
}

TEST_CASE("functions of one IOMMU group have one borrower, also while a loan of one ends") {
  Crossroads node;
  const auto a = node.lend_out("0000:01:00.0", 14), b = node.lend_out("0000:01:00.1", 14),
             c = node.lend_out("0000:02:00.0", 15);
  const LoanId loan{a, node.lend(four, a)};
  CHECK(node.lend(five, b) == 0);
  CHECK(node.lend(five, c) != 0); // another group
  node.receive(four, ReturnRequest{1, a, loan.epoch});
  CHECK(node.lend(five, b) == 0); // its windows are still in the group's domain
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.lend(five, b) != 0);
  CHECK(node.lend(four, a) == 0);
  CHECK(node.lend(five, a) != 0);
}

TEST_CASE("a function that several share keeps the others of its group from each of them") {
  Crossroads node;
  const auto a = node.lend_out("0000:01:00.0", 14), b = node.lend_out("0000:01:00.1", 14);
  REQUIRE(node.lend(four, a, true) != 0);
  CHECK(node.lend(four, b, true) != 0);
  node.give_back(four, {b, 2});
  REQUIRE(node.lend(five, a, true) != 0);
  for (const auto link : {four, five})
    for (const bool shared : {false, true}) CHECK(node.lend(link, b, shared) == 0);
}

TEST_CASE("the borrower says that it let go when its clients have, not before") {
  Crossroads node;
  const LoanId loan{node.of_six, 7};
  node.borrow(loan, six);
  node.receive(six, TakenBack{loan.device, loan.epoch, "wanted back"});
  CHECK(node.done() == "let go 60000/7");
  CHECK(node.sent<Released>(six).empty());
  node.command("open", {{"device", "60000"}}, 5);
  CHECK(node.find<OpenLoan>() == nullptr);
  node.on(LoanClosed{loan});
  CHECK(node.sent<Released>(six) == std::vector{Released{loan.device, loan.epoch}});
  CHECK(node.sent<ReturnRequest>(six).empty()); // there is nothing to return
}

TEST_CASE("a loan that was returned before it was granted is given back, and never used") {
  Crossroads node;
  const auto number = node.ask(node.of_six, six);
  node.command("return", {{"device", "60000"}});
  CHECK(node.find<Reply>() == nullptr);
  node.receive(six, Answer{number, 7, {}, {}});
  const auto returned = node.sent<ReturnRequest>(six);
  CHECK(node.find<OpenLoan>() == nullptr);
  REQUIRE(returned.size() == 1);
  CHECK(returned[0].epoch == 7);
  node.receive(six, Answer{returned[0].number, 7, {}, {}});
  CHECK(node.done() == "let go 60000/7");
  node.on(LoanClosed{{node.of_six, 7}});
  CHECK(node.done() == "reply ok, reply revoked"); // who returned it, and who wanted it
  CHECK(node.node.status_document()["loans"].empty());
  CHECK(node.find<OpenLoan>() == nullptr);
}

TEST_CASE("a loan whose program has ended before it was granted is given back, and never used") {
  Crossroads node;
  node.command("open", {{"device", "60000"}}, 77);
  const auto number = node.sent<BorrowRequest>(six).at(0).number;
  node.on(ControlClosed{77});
  CHECK(node.done().empty());
  node.receive(six, Answer{number, 7, {}, {}});
  CHECK(node.done() == "18: return 60000/7");
}

TEST_CASE("a refused borrow leaves nothing to give back") {
  Crossroads node;
  const auto number = node.ask(node.of_six, six);
  node.command("return", {{"device", "60000"}});
  node.receive(six, Answer{number, 0, Errc::busy, "node 5 has it"});
  CHECK(node.done() == "reply ok, reply busy");
  CHECK(node.ask(node.of_six, six) != 0); // it may be asked for again
}

TEST_CASE("a lost lender's loans end at once, a lost device is returned, and other lenders' go on") {
  for (const bool link : {true, false}) {
    Crossroads node;
    node.borrow({node.of_six, 7}, six);
    node.borrow({node.of_seven, 7}, seven);
    if (link)
      node.on(LinkDown{six, "cut"});
    else
      node.on(FabricLost{{node.of_six, 7}, "its connection ended"});
    CHECK(node.done() == (link ? "drop 18, let go 60000/7 at once" : "18: return 60000/7"));
    node.command("borrow", {{"device", "70000"}});
    CHECK(node.done() == "reply ok"); // that one is as it was
  }
}

TEST_CASE("a program's end returns what was opened for it, and nothing else") {
  Crossroads node;
  const auto open = [&node](DeviceId device, LinkId lender, ControlId program) {
    node.command("open", {{"device", to_string(device)}}, program);
    const LoanId loan{device, 7};
    node.receive(lender, Answer{node.sent<BorrowRequest>(lender).at(0).number, loan.epoch, {}, {}});
    node.on(LoanOpened{loan, "/loan.sock"});
  };
  open(node.of_six, six, 50);
  open(node.of_seven, seven, 51);
  node.on(UsageChanged{{node.of_six, 7}, Usage{.client = "libsmartio", .pid = 5}});
  node.command("open", {{"device", "60000"}}, 51);
  CHECK(node.done() == "reply busy"); // somebody uses it
  node.command("return", {{"device", "60000"}, {"opened", true}}, 51);
  CHECK(node.done() == "reply ok"); // and it stays
  node.on(ControlClosed{51});
  CHECK(node.done().find("60000") == std::string::npos);
  CHECK(node.done().find("70000") != std::string::npos);
  node.on(ControlClosed{50});
  CHECK(node.done().find("60000") != std::string::npos);
}

TEST_CASE("a lender that connects anew has a new life: what the old connection carried is lost") {
  Crossroads node;
  node.borrow({node.of_six, 7}, six);
  node.on(Accepted{30, nonce_of(30)});
  node.receive(six, Refused{"node 6 disconnected"});
  CHECK(node.done() == "drop 18, let go 60000/7 at once");
  node.on(LoanClosed{{node.of_six, 7}});
  CHECK(node.state(node.of_six) == "unknown"); // it does not lend any more
  node.receive(30, Crossroads::hello(NodeId{6}));
  node.receive(30, Devices{{Crossroads::offer(node.of_six)}, {}});
  CHECK(node.ask(node.of_six, 30) != 0);
}
