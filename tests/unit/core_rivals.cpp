// Two connections with one lender's id: the lender itself, which started again, or a second node of that id.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("while a lender lives, nobody else gets its id") {
  Crossroads node;
  node.borrow({node.of_six, 5}, six);
  const LinkId second = 30;
  node.on(Accepted{second, nonce_of(second), "10.0.0.9"});
  node.receive(second, Crossroads::hello(NodeId{6}, "elsewhere"));
  CHECK(node.sent<Heartbeat>(six).size() == 1);
  CHECK(node.sent<Heartbeat>(six).front().asks);
  node.receive(six, Heartbeat{});
  CHECK(node.done() == "30: refused, drop 30");
  CHECK(node.sent<Refused>(second).front().reason.find("10.0.0.9") != std::string::npos);
  CHECK(node.node.status_document()["loans"].size() == 1);
}

TEST_CASE("a lender that started again gets in when its old connection has gone or is silent") {
  for (const bool closed : {true, false}) {
    Crossroads node;
    node.borrow({node.of_six, 5}, six);
    const LinkId again = 30;
    node.on(Accepted{again, nonce_of(again)});
    node.receive(again, Crossroads::hello(NodeId{6}));
    CHECK(node.done().empty());
    if (closed)
      node.on(LinkDown{six, "cut"});
    else
      node.fire(Timer::Kind::rival, 6);
    CHECK(node.done() == "drop 18, let go 60000/5 at once, 30: hello"); // what the old connection carried is lost
    CHECK(node.sent<Hello>(again).size() == 1);
    CHECK_FALSE(node.armed(Timer::Kind::rival, 6));
    node.receive(again, Devices{{Crossroads::offer(node.of_six)}, {}});
    CHECK(node.find<Drop>() == nullptr);
    node.receive(six, TakenBack{node.of_six, 5, "the old connection speaks"});
    CHECK(node.effects.empty());
    node.on(LoanClosed{{node.of_six, 5}});
    CHECK(node.done().empty()); // the new life knows nothing of that loan
    CHECK(node.ask(node.of_six, again) != 0);
  }
}

TEST_CASE("what claims a lender's id is served nothing before it is known who that is") {
  Crossroads node;
  const LinkId second = 30;
  node.on(Accepted{second, nonce_of(second)});
  node.receive(second, Crossroads::hello(NodeId{6}));
  node.receive(second, Devices{{Crossroads::offer(node.of_six)}, {}});
  CHECK(node.done() == "drop 30");
  CHECK(node.sent<Hello>(second).empty());
  node.receive(six, Heartbeat{});
  CHECK(node.done().empty());
}

TEST_CASE("of more that claim a lender's id the first one waits, and the others are refused at once") {
  Crossroads node;
  const LinkId second = 30, third = 31;
  for (const auto link : {second, third}) node.on(Accepted{link, nonce_of(link)});
  node.receive(second, Crossroads::hello(NodeId{6}));
  CHECK(node.done().empty());
  node.receive(third, Crossroads::hello(NodeId{6}));
  CHECK(node.done() == "31: refused, drop 31");
  node.on(LinkDown{six, "cut"});
  CHECK(node.sent<Hello>(second).size() == 1);
}

TEST_CASE("what claims a lender's id has said its hello: another one ends it, whoever that names") {
  for (const auto id : {NodeId{6}, NodeId{9}}) {
    Crossroads node;
    const auto before = node.node.status_document();
    node.on(Accepted{30, nonce_of(30)});
    node.receive(30, Crossroads::hello(NodeId{6}));
    node.receive(30, Crossroads::hello(id));
    CHECK(node.done() == "drop 30");
    CHECK(node.node.status_document() == before);
    node.on(LinkDown{six, "cut"});
    CHECK(node.done() == "drop 18");
  }
}
