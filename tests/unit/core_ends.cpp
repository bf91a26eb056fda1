// How a loan ended, as its program is told: the lender's word, a lost lender, the borrower's own doing.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

struct Borrowed : Crossroads {
  const LoanId loan{of_six, 5};
  Borrowed() { borrow(loan, six); }

  /// What `ended` answers, "" when it waits.
  std::string answer() {
    for (const auto& effect : effects)
      if (const auto* reply = std::get_if<Reply>(&effect); reply != nullptr && reply->request == asked)
        return reply->result ? reply->result->value("end", "") + ": " + reply->result->value("reason", "")
                             : to_string(reply->result.error());
    return "";
  }
  std::string ask_end(std::uint64_t epoch = 5) {
    on(Command{asked, 1, "ended", {{"device", "60000"}, {"epoch", epoch}}});
    return answer();
  }
  const RequestId asked = 77;
};

} // namespace

TEST_CASE("a device that its lender takes back, or has lost, is told apart") {
  for (const bool lost : {false, true}) {
    Borrowed node;
    node.receive(six, TakenBack{node.loan.device, node.loan.epoch, "why", lost});
    CHECK(node.ask_end().empty()); // its client is still there
    node.on(LoanClosed{node.loan});
    CHECK(node.answer() == (lost ? "device-lost: why" : "taken-back: why"));
    CHECK(node.ask_end() == (lost ? "device-lost: why" : "taken-back: why")); // and again later
  }
}

TEST_CASE("a lender that is lost is that, also if its device was lost before") {
  for (const bool device_first : {false, true}) {
    Borrowed node;
    if (device_first) node.on(FabricLost{node.loan, "its server hung up"});
    node.on(LinkDown{six, "cut"});
    node.on(LoanClosed{node.loan});
    CHECK(node.ask_end().starts_with("lender-lost: "));
  }
}

TEST_CASE("a device whose server is lost while its lender is well is lost") {
  Borrowed node;
  node.on(FabricLost{node.loan, "its server hung up"});
  const auto returned = node.sent<ReturnRequest>(six);
  REQUIRE(returned.size() == 1);
  node.receive(six, Answer{returned.front().number, node.loan.epoch, {}, {}});
  node.on(LoanClosed{node.loan});
  CHECK(node.ask_end() == "device-lost: its server hung up");
}

TEST_CASE("a loan that this node returns was returned, whatever its lender says meanwhile") {
  Borrowed node;
  node.command("return", {{"device", "60000"}});
  const auto number = node.sent<ReturnRequest>(six).front().number;
  node.receive(six, TakenBack{node.loan.device, node.loan.epoch, "returned", true});
  node.on(LoanClosed{node.loan});
  node.receive(six, Answer{number, node.loan.epoch, {}, {}});
  CHECK(node.ask_end() == "returned: node 8 returned it");
}

TEST_CASE("the end of the node is the end of its loans") {
  Borrowed node;
  node.on(Stopping{});
  const auto number = node.sent<ReturnRequest>(six).front().number;
  node.receive(six, TakenBack{node.loan.device, node.loan.epoch, "returned"});
  node.on(LoanClosed{node.loan});
  node.receive(six, Answer{number, node.loan.epoch, {}, {}});
  CHECK(node.ask_end() == "node-lost: node 8 is stopping");
}

TEST_CASE("a loan that has not ended, or never was, has no end") {
  Borrowed node;
  CHECK(node.ask_end() == ": ");
  CHECK(node.find<Reply>()->result.value()["borrowed"] == true);
  CHECK(node.ask_end(6) == "device 60000 was not lent to this node as loan 6, or that is long ago");
  node.on(Command{node.asked, 1, "ended", {{"device", "60000"}}});
  CHECK_FALSE(node.answer().empty());
}

TEST_CASE("events of a loan's end say how it ended") {
  Borrowed node;
  node.receive(six, TakenBack{node.loan.device, node.loan.epoch, "wanted back"});
  node.on(LoanClosed{node.loan});
  const auto* told = node.find<Emit>();
  REQUIRE(told != nullptr);
  CHECK(told->event["event"] == "loan-ended");
  CHECK(told->event["end"] == "taken-back");
  CHECK(told->event["reason"] == "wanted back");
}

TEST_CASE("of loans long ago nothing is kept") {
  Borrowed node;
  std::uint64_t epoch = 5;
  for (unsigned count = 0; count < 257; ++count, ++epoch) {
    node.receive(six, TakenBack{node.loan.device, epoch, "wanted back"});
    node.on(LoanClosed{{node.loan.device, epoch}});
    node.borrow({node.loan.device, epoch + 1}, six);
  }
  CHECK(node.ask_end(5) == "device 60000 was not lent to this node as loan 5, or that is long ago");
  CHECK(node.ask_end(6) == "taken-back: wanted back");
}
