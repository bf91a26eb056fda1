// What goes with a connection: loans that are ending, requests that wait, answers that are on their way.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("a loan whose lender is lost while it is being returned is over when its client has left") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.borrow(loan, six);
  node.command("return", {{"device", "60000"}});
  node.on(LinkDown{six, "cut"});
  CHECK(node.done() == "drop 18, let go 60000/5 at once");
  node.on(LoanClosed{loan}); // the lender's answer will never come
  CHECK(node.done() == "reply ok");
  CHECK(node.node.status_document()["loans"].empty());
  node.command("borrow", {{"device", "60000"}});
  CHECK(node.done() == "reply peer_down"); // at once: it is known, but nobody is there to ask
}

TEST_CASE("a client that is leaving is not told again when the lender is lost too") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.borrow(loan, six);
  node.receive(six, TakenBack{loan.device, loan.epoch, "wanted back"});
  CHECK(node.done() == "let go 60000/5");
  node.on(LinkDown{six, "cut"});
  CHECK(node.done() == "drop 18");
  node.on(LoanClosed{loan});
  CHECK(node.done().empty()); // and there is nobody to say Released to
  CHECK(node.node.status_document()["loans"].empty());
}

TEST_CASE("a loan that cannot be opened is given back, and whoever asked learns why") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.receive(six, Answer{node.ask(node.of_six, six), loan.epoch, {}, {}});
  node.on(LoanOpened{loan, fail(Errc::no_window, "the aperture is full")});
  CHECK(node.done() == "reply no_window, 18: return 60000/5");
}

TEST_CASE("who waits for a device and loses its connection waits no longer, nor in its next life") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.receive(four, ReturnRequest{1, loan.device, loan.epoch});
  node.receive(five, BorrowRequest{2, loan.device, false});
  CHECK(node.done().empty());
  node.on(LinkDown{five, "cut"});
  const LinkId again = 40;
  node.on(Dialled{NodeId{5}, again, nonce_of(again)});
  node.receive(again, Crossroads::hello(NodeId{5}));
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.done() == "16: taken back 80000/1, 16: answer ok");
  CHECK(node.state(node.first) == "available");
}

TEST_CASE("a configuration space that was read for a connection which has gone is sent to nobody") {
  Crossroads node;
  node.receive(four, ConfigRequest{1, node.first, ConfigForm::raw});
  REQUIRE(node.find<ReadConfig>() != nullptr);
  const auto read = node.find<ReadConfig>()->request;
  node.on(LinkDown{four, "cut"});
  node.on(ConfigRead{read, std::string("86")});
  CHECK(node.effects.empty());
}
