// Words about a loan that is over, while the next one lasts; words said twice, and said late.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("the lender takes no word about a former loan for the next one's, not even from the same node") {
  for (const auto next_borrower : {four, five}) {
    Crossroads node;
    const LoanId former{node.first, node.lend(four, node.first)};
    node.give_back(four, former);
    const LoanId loan{node.first, node.lend(next_borrower, node.first)};
    REQUIRE(loan.epoch > former.epoch);
    const auto before = node.picture();
    node.receive(four, ReturnRequest{70, node.first, former.epoch});
    CHECK(node.done() == "16: answer ok"); // it has ended already
    node.receive(four, Released{node.first, former.epoch});
    CHECK(node.done().empty());
    node.on(TellClients{former});
    CHECK(node.done().empty());
    node.on(LoanEnded{former, std::nullopt});
    CHECK(node.find<EndLoan>() == nullptr);
    CHECK(node.picture() == before);
    CHECK(node.node.admits(loan, next_borrower));
  }
}

TEST_CASE("the borrower takes no word about a former loan for the next one's") {
  Crossroads node;
  const LoanId former{node.of_six, 7}, loan{node.of_six, 8};
  node.borrow(former, six);
  node.taken_back(former, six);
  node.borrow(loan, six);
  const auto before = node.picture();
  node.on(FabricLost{former, "its connection ended"});
  CHECK(node.done().empty());
  node.on(LoanClosed{former});
  CHECK(node.done().empty());
  node.on(LoanOpened{former, "/former.sock"});
  CHECK(node.done().empty());
  node.on(LoanOpened{former, fail(Errc::peer_down, "late")});
  CHECK(node.done().empty());
  node.on(UsageChanged{former, Usage{.client = "vfio-user", .pid = 5, .trapped = true, .windows = 3}});
  CHECK(node.done().empty());
  node.receive(six, TakenBack{node.of_six, former.epoch, "again"});
  CHECK(node.done() == "18: released 60000/7"); // so that the lender need not wait
  CHECK(node.picture() == before);
}

TEST_CASE("a loan that is being opened, or closed, waits for its own outcome and not a former one's") {
  Crossroads node;
  const LoanId former{node.of_six, 7}, loan{node.of_six, 8};
  node.borrow(former, six);
  node.taken_back(former, six);
  node.receive(six, Answer{node.ask(node.of_six, six), loan.epoch, {}, {}});
  node.on(LoanOpened{former, "/former.sock"});
  CHECK(node.done().empty());
  node.on(LoanOpened{former, fail(Errc::peer_down, "late")});
  CHECK(node.done().empty());
  node.on(LoanOpened{loan, "/loan.sock"});
  REQUIRE(node.find<Reply>() != nullptr);
  CHECK(node.find<Reply>()->result.value()["socket"] == "/loan.sock");
  node.receive(six, TakenBack{loan.device, loan.epoch, "wanted back"});
  node.on(LoanClosed{former});
  CHECK(node.done().empty());
  node.on(LoanClosed{loan});
  CHECK(node.done() == "18: released 60000/8");
}

TEST_CASE("the borrower takes no word about another device's loan") {
  Crossroads node;
  node.borrow({node.of_six, 7}, six);
  node.borrow({node.of_seven, 7}, seven);
  const auto before = node.picture();
  for (const auto wrong : {DeviceId{0x60001}, DeviceId{0x80000}}) {
    node.on(FabricLost{{wrong, 7}, "gone"});
    node.on(LoanClosed{{wrong, 7}});
    node.on(LoanOpened{{wrong, 7}, "/other.sock"});
    CHECK(node.done().empty());
  }
  node.receive(six, TakenBack{DeviceId{0x60001}, 7, "never lent"});
  CHECK(node.find<CloseLoan>() == nullptr);
  CHECK(node.picture() == before);
  node.on(FabricLost{{node.of_six, 7}, "gone"});
  CHECK(node.done() == "18: return 60000/7");
  CHECK(node.shown(node.of_seven)["state"] == "available");
}

TEST_CASE("a device is asked to end a loan once, however often and by whomever that is wanted") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.receive(four, ReturnRequest{1, loan.device, loan.epoch});
  CHECK(node.done() == "end 80000/1 last");
  node.receive(four, ReturnRequest{2, loan.device, loan.epoch});
  CHECK(node.find<EndLoan>() == nullptr);
  node.command("unavailable", {{"device", "80000"}});
  CHECK(node.find<EndLoan>() == nullptr);
  node.on(DeviceLost{loan.device, "its server went away"});
  CHECK(node.find<EndLoan>() == nullptr);
  node.on(UseEnded{loan, Error{make_error_code(Errc::timed_out), "reset"}});
  CHECK(node.find<EndLoan>() == nullptr);
  node.on(LinkDown{four, "cut"});
  CHECK(node.find<EndLoan>() == nullptr);
}

TEST_CASE("each request to return is answered once, and the one that began the end when the device is clean") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  const auto answers = [&node](std::uint64_t number) {
    const auto sent = node.sent<Answer>(four);
    return std::ranges::count_if(sent, [number](const auto& answer) { return answer.number == number; });
  };
  node.receive(four, ReturnRequest{1, loan.device, loan.epoch});
  CHECK(answers(1) == 0);
  node.receive(four, ReturnRequest{2, loan.device, loan.epoch});
  CHECK(answers(1) == 0);
  const auto second = answers(2);
  node.on(TellClients{loan});
  CHECK(answers(1) == 0);
  node.receive(four, Released{loan.device, loan.epoch});
  CHECK(answers(1) == 0);
  CHECK(node.state(node.first) == "borrowed");
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(answers(1) == 1);
  CHECK(second + answers(2) == 1);
  CHECK(node.state(node.first) == "available");
  node.receive(four, ReturnRequest{3, loan.device, loan.epoch});
  CHECK(answers(3) == 1);
}

TEST_CASE("a device that is taken back twice is let go of once") {
  Crossroads node;
  const LoanId loan{node.of_six, 7};
  node.borrow(loan, six);
  const TakenBack word{loan.device, loan.epoch, "wanted back"};
  node.receive(six, word);
  CHECK(node.done() == "let go 60000/7");
  node.receive(six, word);
  CHECK(node.find<CloseLoan>() == nullptr);
  node.on(LoanClosed{loan});
  CHECK(node.done() == "18: released 60000/7");
  node.on(LoanClosed{loan});
  CHECK(node.done().empty());
  node.receive(six, word);
  CHECK(node.done() == "18: released 60000/7");
}

TEST_CASE("outcomes that nobody waits for change nothing") {
  Crossroads node;
  node.lend(four, node.first);
  node.borrow({node.of_six, 7}, six);
  const auto before = node.node.status_document();
  const Error error{make_error_code(Errc::timed_out), "late"};
  for (const Event& late : std::vector<Event>{
           DeviceProbed{node.first, Crossroads::disk()}, DeviceProbed{node.first, std::unexpected(error)},
           DeviceOpened{node.first, Crossroads::disk()}, DeviceOpened{node.second, std::unexpected(error)},
           DeviceClosed{node.first, std::nullopt, "nvme"}, DeviceClosed{node.second, error, "nvme"},
           DeviceProbed{DeviceId{0x80077}, Crossroads::disk()}, DeviceOpened{node.of_six, Crossroads::disk()},
           DeviceClosed{node.of_six, std::nullopt, ""}, LoanEnded{{DeviceId{0x80077}, 1}, error},
           UseEnded{{node.of_six, 7}, error}, TellClients{{node.second, 1}},
           LoanOpened{{node.of_six, 7}, "/second.sock"}, LoanClosed{{node.of_six, 7}},
           ConfigRead{12345, std::string("ff")}, HostScanned{12345, {}}, DialFailed{NodeId{77}, "nobody asked"},
           DeviceLost{node.of_six, "not ours"}, ControlClosed{77}}) {
    CAPTURE(late.index());
    node.on(late);
    CHECK(node.done().empty());
    CHECK(node.node.status_document() == before);
  }
  node.on(Dialled{NodeId{77}, 40, nonce_of(40)});
  CHECK(node.done() == "drop 40"); // a connection that nobody wants
  node.on(Dialled{NodeId{4}, 41, nonce_of(41)});
  CHECK(node.done() == "drop 41"); // there is one already
  CHECK(node.node.status_document() == before);
}

TEST_CASE("what comes late for a request is not for the next one: that has its own answer") {
  for (const auto late : {Errc{}, Errc::busy}) {
    Crossroads node;
    const auto former = node.ask(node.of_six, six);
    node.fire(Timer::Kind::answer, former);
    const auto number = node.ask(node.of_six, six);
    REQUIRE(number != 0);
    node.receive(six, Answer{former, 7, late, {}});
    CHECK(node.done() == (late == Errc{} ? "18: return 60000/7" : ""));
    node.receive(six, Answer{number, 8, {}, {}});
    CHECK(node.done() == "use 60000/8");
  }
}

TEST_CASE("the answer to an earlier return ends nothing of the loan that came after") {
  Crossroads node;
  const auto former = node.ask(node.of_six, six);
  node.fire(Timer::Kind::answer, former);
  node.receive(six, Answer{former, 7, {}, {}});
  const auto returned = node.sent<ReturnRequest>(six).at(0).number;
  node.borrow({node.of_six, 8}, six);
  const auto before = node.picture();
  node.receive(six, Answer{returned, 7, {}, {}});
  CHECK(node.done().empty());
  CHECK(node.picture() == before);
}
