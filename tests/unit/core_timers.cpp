// Timers: each that is armed is disarmed when what it waits for has happened, and does its work when it fires.
#include "core_crossroads.hpp"

#include "catch.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;
using Kind = Timer::Kind;
using std::chrono::milliseconds;

namespace {

bool beats(Crossroads& node, LinkId link) { return node.beats(link) && node.armed(Kind::silence, link); }
bool rests(Crossroads& node, LinkId link) { return !node.beats(link) && !node.armed(Kind::silence, link); }

} // namespace

TEST_CASE("heartbeats go, and are expected, while a loan exists on that very connection") {
  Crossroads node;
  for (const auto link : {four, five, six, seven}) CHECK(rests(node, link));
  const LoanId lent{node.first, node.lend(four, node.first)};
  CHECK(node.sent<Heartbeat>(four).size() == 1); // at once: the other end may wait already
  CHECK(beats(node, four));
  CHECK(rests(node, five));
  node.borrow({node.of_six, 7}, six);
  CHECK(beats(node, six));
  CHECK(rests(node, seven));
  node.give_back(four, lent);
  CHECK(rests(node, four));
  CHECK(beats(node, six));
  node.taken_back({node.of_six, 7}, six);
  CHECK(rests(node, six));
}

TEST_CASE("heartbeats go until the last of a peer's loans has ended") {
  Crossroads node;
  const LoanId one{node.first, node.lend(four, node.first)}, other{node.second, node.lend(four, node.second)};
  node.give_back(four, one);
  CHECK(beats(node, four));
  node.give_back(four, other);
  CHECK(rests(node, four));
}

TEST_CASE("a heartbeat is sent every 500 ms, and any message is a sign of life") {
  Crossroads node;
  node.lend(four, node.first);
  for (int i = 0; i < 3; ++i) {
    CHECK(node.timers.at({Kind::heartbeat, 0}) == milliseconds{500});
    CHECK(node.beats(four));
  }
  for (const Message& message : {Message{Heartbeat{}}, Message{BorrowRequest{1, DeviceId{0x80077}, false}},
                                 Message{Released{DeviceId{0x80077}, 1}}}) {
    node.timers.erase({Kind::silence, four});
    node.receive(five, message);
    CHECK_FALSE(node.armed(Kind::silence, four)); // another one's life is no sign of this one's
    node.receive(four, message);
    CHECK(node.armed(Kind::silence, four));
  }
}

TEST_CASE("however many peers have loans, one timer beats for all of them, and stops after the last") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.timers.at({Kind::heartbeat, 0}) = milliseconds{1}; // left
  node.borrow({node.of_six, 7}, six);
  CHECK(node.timers.at({Kind::heartbeat, 0}) == milliseconds{1}); // whoever begins does not put the others off
  CHECK(std::ranges::count(node.timers, Kind::heartbeat, [](const auto& t) { return t.first.kind; }) == 1);
  node.fire(Kind::heartbeat, 0);
  for (const auto link : {four, six}) CHECK(node.sent<Heartbeat>(link).size() == 1);
  for (const auto link : {five, seven}) CHECK(node.sent<Heartbeat>(link).empty());
  node.give_back(four, loan);
  CHECK(node.armed(Kind::heartbeat, 0));
  node.taken_back({node.of_six, 7}, six);
  CHECK_FALSE(node.armed(Kind::heartbeat, 0));
}

TEST_CASE("who asks whether this node is alive is answered at once, and not asked in return") {
  for (const auto link : {four, six}) {
    Crossroads node;
    node.receive(link, Heartbeat{.asks = true});
    CHECK(node.sent<Heartbeat>(link) == std::vector{Heartbeat{.asks = false}});
    node.receive(link, Heartbeat{});
    CHECK(node.effects.empty());
  }
}

TEST_CASE("a peer is given the configured time of silence, then its loans end, and nobody else's") {
  Crossroads node;
  node.command("config", {{"option", "peer-timeout"}, {"value", "1500"}});
  node.lend(four, node.first);
  const LoanId theirs{node.second, node.lend(five, node.second)};
  CHECK(node.timers.at({Kind::silence, four}) == milliseconds{1500});
  node.fire(Kind::silence, four);
  CHECK(node.done().find("drop 16") != std::string::npos);
  CHECK(node.done().find("end 80000/1 last") != std::string::npos);
  CHECK(node.done().find("80001") == std::string::npos);
  CHECK(rests(node, four));
  CHECK(node.node.admits(theirs, five));
  CHECK(beats(node, five));
}

TEST_CASE("a silent lender's loans are lost, and nobody else's") {
  Crossroads node;
  node.borrow({node.of_six, 7}, six);
  node.borrow({node.of_seven, 7}, seven);
  node.fire(Kind::silence, six);
  CHECK(node.done() == "drop 18, let go 60000/7 at once");
  CHECK(node.shown(node.of_six)["reachable"] == false);
  CHECK(node.shown(node.of_seven)["reachable"] == true);
  CHECK(beats(node, seven));
  CHECK(rests(node, six));
}

TEST_CASE("a connection has so long for its hello, and no longer") {
  Crossroads node;
  for (const auto link : {four, five, six, seven, closed}) CHECK_FALSE(node.armed(Kind::hello, link));
  REQUIRE(node.armed(Kind::hello, early));
  node.fire(Kind::hello, early);
  CHECK(node.done() == "drop 20");
  CHECK_FALSE(node.armed(Kind::hello, early));
  node.command("connect", {{"node", 9}, {"address", "h:9"}});
  node.on(Dialled{NodeId{9}, 40, nonce_of(40)});
  REQUIRE(node.armed(Kind::hello, 40));
  node.fire(Kind::hello, 40);
  CHECK(node.done() == "drop 40, reply peer_down");
}

TEST_CASE("no timer of a connection outlives it") {
  for (const auto link : {four, six, early}) {
    Crossroads node;
    node.lend(four, node.first);
    node.borrow({node.of_six, 7}, six);
    node.on(LinkDown{link, "cut"});
    for (const auto kind : {Kind::hello, Kind::silence}) CHECK_FALSE(node.armed(kind, link));
    CHECK_FALSE(node.beats(link));
  }
}

TEST_CASE("a request has a deadline until it is answered or its connection is gone") {
  const auto with = [](auto ending) {
    Crossroads node;
    const auto borrow = node.ask(node.of_six, six);
    node.command("config-space", {{"device", "60000"}});
    const auto read = node.sent<ConfigRequest>(six).at(0).number;
    const auto other = node.ask(node.of_seven, seven);
    for (const auto number : {borrow, read, other}) REQUIRE(node.armed(Kind::answer, number));
    ending(node, borrow, read);
    CHECK_FALSE(node.armed(Kind::answer, borrow));
    CHECK_FALSE(node.armed(Kind::answer, read));
    CHECK(node.armed(Kind::answer, other));
  };
  with([](Crossroads& node, auto borrow, auto read) {
    node.receive(six, Answer{borrow, 7, {}, {}});
    node.receive(six, ConfigAnswer{read, "ff", {}, {}});
  });
  with([](Crossroads& node, auto borrow, auto read) {
    node.receive(six, Answer{borrow, 0, Errc::busy, "no"});
    node.receive(six, ConfigAnswer{read, "", Errc::wrong_state, "no"});
  });
  with([](Crossroads& node, auto, auto) { node.on(LinkDown{six, "cut"}); });
  with([](Crossroads& node, auto, auto) { node.receive(six, Refused{"disconnected"}); });
}

TEST_CASE("a node that cannot be reached is dialled again, less and less often, but every 5 s at least") {
  Crossroads node;
  const Timer redial{Kind::redial, 4};
  node.on(LinkDown{four, "cut"});
  milliseconds last{};
  for (int attempt = 0; attempt < 40; ++attempt) {
    REQUIRE(node.timers.contains(redial));
    CHECK(node.timers.at(redial) >= last);
    CHECK(node.timers.at(redial) <= milliseconds{5000});
    last = node.timers.at(redial);
    node.fire(Kind::redial, 4);
    CHECK(node.done() == "dial 4");
    node.on(DialFailed{NodeId{4}, "refused"});
  }
  CHECK(last == milliseconds{5000});
  node.fire(Kind::redial, 4);
  node.on(Dialled{NodeId{4}, 40, nonce_of(40)});
  node.receive(40, Crossroads::hello(NodeId{4}));
  CHECK_FALSE(node.timers.contains(redial));
  node.on(LinkDown{40, "cut"});
  CHECK(node.timers.at(redial) <= milliseconds{100}); // it was reached: from the beginning
}

TEST_CASE("who is disconnected is not dialled again") {
  Crossroads node;
  node.on(LinkDown{four, "cut"});
  REQUIRE(node.armed(Kind::redial, 4));
  node.command("disconnect", {{"node", 4}});
  CHECK_FALSE(node.armed(Kind::redial, 4));
  node.on(TimerFired{{Kind::redial, 4}}); // it was under way
  CHECK(node.effects.empty());
  node.on(LinkDown{five, "cut"});
  node.command("connect", {{"node", 5}}); // at once, and not twice
  CHECK(node.done() == "dial 5");
  CHECK_FALSE(node.armed(Kind::redial, 5));
}

TEST_CASE("a timer of what is gone does nothing") {
  Crossroads node;
  const auto before = node.node.status_document();
  for (const auto kind : {Kind::hello, Kind::silence, Kind::answer, Kind::redial})
    for (const std::uint64_t key : {closed, unknown, LinkId{12345}}) {
      node.on(TimerFired{{kind, key}});
      CHECK(node.effects.empty());
    }
  CHECK(node.node.status_document() == before);
}

TEST_CASE("a timer that fires after it was disarmed does nothing") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  const auto number = node.ask(node.of_six, six);
  const std::vector<Timer> late{{Kind::heartbeat, 0}, {Kind::silence, four}, {Kind::answer, number},
                                {Kind::hello, four},  {Kind::hello, six},    {Kind::rival, 6}};
  node.receive(six, Answer{number, 0, Errc::busy, "no"});
  node.give_back(four, loan);
  const auto before = node.node.status_document();
  for (const auto& timer : late) {
    CAPTURE(static_cast<int>(timer.kind));
    node.on(TimerFired{timer});
    CHECK(node.effects.empty());
  }
  CHECK(node.node.status_document() == before);
}

TEST_CASE("an end that lasts is no silence: the lender goes on sending heartbeats, and waits for none") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.receive(four, ReturnRequest{1, node.first, loan.epoch});
  CHECK(node.beats(four));
  CHECK_FALSE(node.armed(Kind::silence, four));
  node.on(TellClients{loan});
  CHECK(node.beats(four));
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(rests(node, four));
}
