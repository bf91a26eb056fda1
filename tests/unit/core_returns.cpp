// A loan is ended by its lender, whoever wants it to end: a client learns that its memory is free only from there.
// What is asked meanwhile waits, what comes late is undone, and nothing else suffers.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

TEST_CASE("a return goes to the lender first, and the client is told once the device lets go") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.borrow(loan, six);
  node.command("return", {{"device", "60000"}});
  CHECK(node.done() == "18: return 60000/5");
  const auto asked = node.sent<ReturnRequest>(six).front().number;
  node.receive(six, TakenBack{loan.device, loan.epoch, "returned"});
  CHECK(node.done() == "let go 60000/5");
  node.on(LoanClosed{loan});
  CHECK(node.done() == "18: released 60000/5");
  node.receive(six, Answer{asked, loan.epoch, {}, {}});
  CHECK(node.done() == "reply ok");
  CHECK(node.node.status_document()["loans"].empty());
}

TEST_CASE("a program that ends returns what it opened the same way") {
  Crossroads node;
  node.command("open", {{"device", "60000"}}, 77);
  node.receive(six, Answer{node.sent<BorrowRequest>(six).front().number, 5, {}, {}});
  node.on(LoanOpened{{node.of_six, 5}, "/loan.sock"});
  node.on(ControlClosed{77});
  CHECK(node.done() == "18: return 60000/5");
}

TEST_CASE("a device whose connection breaks is returned, and its client told again when the lender has let go") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.borrow(loan, six);
  node.on(FabricLost{loan, "cut"});
  CHECK(node.done() == "18: return 60000/5");
  node.receive(six, TakenBack{loan.device, loan.epoch, "returned"});
  REQUIRE(node.find<CloseLoan>() != nullptr);
  CHECK(node.find<CloseLoan>()->orderly);
}

TEST_CASE("a return that crosses a take-back is answered, and Released is sent once") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.borrow(loan, six);
  node.receive(six, TakenBack{loan.device, loan.epoch, "wanted back"});
  node.command("return", {{"device", "60000"}});
  CHECK(node.done().empty());
  node.on(LoanClosed{loan});
  CHECK(node.done() == "18: released 60000/5, reply ok");
}

TEST_CASE("a lender that lost the loan before it was returned answers, and the client is told then") {
  Crossroads node;
  const LoanId loan{node.of_six, 5};
  node.borrow(loan, six);
  node.command("return", {{"device", "60000"}});
  node.receive(six, Answer{node.sent<ReturnRequest>(six).front().number, 5, {}, {}});
  CHECK(node.done() == "let go 60000/5");
  node.on(LoanClosed{loan});
  CHECK(node.done() == "reply ok");
}

TEST_CASE("who asks for a device whose loan is just ending gets it when it has ended") {
  for (const char* name : {"borrow", "open"}) {
    Crossroads node;
    const LoanId loan{node.of_six, 5};
    node.borrow(loan, six);
    node.command("return", {{"device", "60000"}});
    const auto asked = node.sent<ReturnRequest>(six).front().number;
    node.command(name, {{"device", "60000"}}, 77);
    CHECK(node.done().empty());
    node.receive(six, TakenBack{loan.device, loan.epoch, "returned"});
    node.on(LoanClosed{loan});
    node.receive(six, Answer{asked, loan.epoch, {}, {}});
    CHECK(node.done() == "reply ok, 18: borrow 60000");
  }
}

TEST_CASE("a program that ends while it waits for a device is not given it") {
  Crossroads node;
  node.borrow({node.of_six, 5}, six);
  node.command("return", {{"device", "60000"}});
  const auto asked = node.sent<ReturnRequest>(six).front().number;
  node.command("open", {{"device", "60000"}}, 77);
  node.on(ControlClosed{77});
  CHECK(node.done() == "reply revoked");
  node.receive(six, TakenBack{node.of_six, 5, "returned"});
  node.on(LoanClosed{{node.of_six, 5}});
  node.receive(six, Answer{asked, 5, {}, {}});
  CHECK(node.done() == "reply ok");
}

TEST_CASE("a borrow that meets an end at the lender is granted after it") {
  for (const bool shared : {false, true}) {
    Crossroads node;
    const LoanId loan{node.first, node.lend(four, node.first, shared)};
    node.receive(four, ReturnRequest{1, node.first, loan.epoch});
    node.receive(five, BorrowRequest{2, node.first, shared});
    CHECK(node.done().empty());
    node.on(TellClients{loan});
    node.receive(four, Released{loan.device, loan.epoch});
    node.on(LoanEnded{loan, std::nullopt});
    CHECK(node.done() == "16: answer ok, 17: answer ok");
  }
}

TEST_CASE("a borrow that waits for an end learns what became of the device, and nothing if its link has gone") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.receive(four, ReturnRequest{1, node.first, loan.epoch});
  node.receive(five, BorrowRequest{2, node.first, false});
  node.on(LoanEnded{loan, Error{make_error_code(Errc::timed_out), "reset"}});
  CHECK(node.done() == "16: taken back 80000/1, 16: answer ok, 17: answer wrong_state");

  const LoanId other{node.second, node.lend(four, node.second)};
  node.receive(four, ReturnRequest{3, node.second, other.epoch});
  node.receive(five, BorrowRequest{4, node.second, false});
  node.on(LinkDown{five, "cut"});
  node.on(LoanEnded{other, std::nullopt});
  CHECK(node.sent<Answer>(five).empty());
  CHECK(node.state(node.second) == "available");
}

TEST_CASE("a request that is answered late fails alone, and what it achieved is undone") {
  Crossroads node;
  node.borrow({node.of_seven, 9}, seven);
  const auto number = node.ask(node.of_six, six);
  node.fire(Timer::Kind::answer, number);
  CHECK(node.done() == "reply timed_out");
  CHECK(node.find<Drop>() == nullptr);
  node.receive(six, Answer{number, 5, {}, {}});
  CHECK(node.done() == "18: return 60000/5");
  node.receive(six, Answer{node.sent<ReturnRequest>(six).front().number, 5, {}, {}});
  CHECK(node.done().empty());
  CHECK(node.node.status_document()["loans"].size() == 1);

  node.command("config-space", {{"device", "60000"}, {"form", "raw"}});
  const auto read = node.sent<ConfigRequest>(six).front().number;
  node.fire(Timer::Kind::answer, read);
  CHECK(node.done() == "reply timed_out");
  node.receive(six, ConfigAnswer{read, "ff", {}, {}});
  CHECK(node.done().empty());
}

TEST_CASE("a lender that leaves one request after the other without an answer is cut off") {
  Crossroads node;
  for (int i = 0; i < 63; ++i) {
    node.fire(Timer::Kind::answer, node.ask(node.of_six, six));
    REQUIRE(node.find<Drop>() == nullptr);
  }
  node.fire(Timer::Kind::answer, node.ask(node.of_six, six));
  REQUIRE(node.find<Drop>() != nullptr);
  CHECK(node.find<Drop>()->link == six);
}

TEST_CASE("a return waits for as long as the lender's heartbeats come") {
  Crossroads node;
  node.borrow({node.of_six, 5}, six);
  node.command("return", {{"device", "60000"}});
  CHECK_FALSE(node.armed(Timer::Kind::answer, node.sent<ReturnRequest>(six).front().number));
  CHECK(node.armed(Timer::Kind::silence, six));
  node.fire(Timer::Kind::silence, six);
  CHECK(node.find<Drop>() != nullptr);
}

TEST_CASE("heartbeats go on until the loan is gone, and are expected no longer than the borrower must send them") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  CHECK(node.beats(four));
  CHECK(node.armed(Timer::Kind::silence, four));
  node.command("unavailable", {{"device", "80000"}});
  CHECK(node.beats(four)); // the borrower has not heard of it yet
  CHECK_FALSE(node.armed(Timer::Kind::silence, four));
  node.on(TellClients{loan});
  CHECK(node.beats(four));
  node.on(LoanEnded{loan, std::nullopt});
  CHECK_FALSE(node.beats(four));
}

TEST_CASE("a timer that fires late, or after it was disarmed, changes nothing") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.on(TimerFired{{Timer::Kind::hello, four}}); // its hello came
  CHECK(node.effects.empty());
  node.on(TimerFired{.timer = {Timer::Kind::silence, four}, .late = std::chrono::seconds(4)}); // we stood still
  CHECK(node.done().empty());
  CHECK(node.armed(Timer::Kind::silence, four));
  node.receive(four, ReturnRequest{1, loan.device, loan.epoch});
  node.on(TimerFired{{Timer::Kind::silence, four}});
  CHECK(node.effects.empty());
  node.on(LoanEnded{loan, std::nullopt});
  for (const auto kind : {Timer::Kind::heartbeat, Timer::Kind::silence, Timer::Kind::answer, Timer::Kind::rival}) {
    node.on(TimerFired{{kind, four}});
    CHECK(node.effects.empty());
  }
}

TEST_CASE("disconnecting takes loans back first") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.command("disconnect", {{"node", 4}});
  CHECK(node.done() == "end 80000/1 last");
  CHECK(node.lend(four, node.second) == 0);
  node.on(TellClients{loan});
  CHECK(node.done() == "16: taken back 80000/1");
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.done() == "16: refused, drop 16, reply ok");
}

TEST_CASE("a node that stops ends what it lent and returns what it borrowed, then says so") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.borrow({node.of_six, 5}, six);
  node.on(Stopping{});
  CHECK(node.done() == "18: return 60000/5, end 80000/1 last");
  const auto asked = node.sent<ReturnRequest>(six).front().number;
  CHECK(node.lend(five, node.second) == 0);
  CHECK(node.ask(node.of_seven, seven) == 0);
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.find<Idle>() == nullptr);
  node.receive(six, TakenBack{node.of_six, 5, "returned"});
  node.on(LoanClosed{{node.of_six, 5}});
  node.receive(six, Answer{asked, 5, {}, {}});
  CHECK(node.find<Idle>() != nullptr);
  node.receive(six, Heartbeat{});
  CHECK(node.find<Idle>() == nullptr); // once
}

TEST_CASE("a device that several programs opened is returned when the last of them has ended") {
  Crossroads node;
  node.command("open", {{"device", "60000"}}, 77);
  node.receive(six, Answer{node.sent<BorrowRequest>(six).front().number, 5, {}, {}});
  node.on(LoanOpened{{node.of_six, 5}, "/loan.sock"});
  node.command("open", {{"device", "60000"}}, 78);
  CHECK(node.done() == "reply ok");
  node.on(UsageChanged{{node.of_six, 5}, Usage{.client = "libsmartio", .pid = 78}});
  node.command("open", {{"device", "60000"}}, 79);
  CHECK(node.done() == "reply busy");
  node.on(ControlClosed{77});
  CHECK(node.done().empty());
  node.on(ControlClosed{79});
  CHECK(node.done().empty());
  node.on(ControlClosed{78});
  CHECK(node.done() == "18: return 60000/5");
}

TEST_CASE("a peer has few configuration spaces read at a time, and its words are no lines of the log") {
  Crossroads node;
  for (std::uint64_t number = 0; number < 16; ++number) {
    node.receive(four, ConfigRequest{number, node.first, ConfigForm::raw});
    REQUIRE(node.find<ReadConfig>() != nullptr);
  }
  const auto last = node.find<ReadConfig>()->request;
  node.receive(four, ConfigRequest{99, node.first, ConfigForm::raw});
  CHECK(node.done() == "16: config answer busy");
  node.on(ConfigRead{last, std::string("86")});
  node.receive(four, ConfigRequest{100, node.first, ConfigForm::raw});
  CHECK(node.done() == "read 80000");

  node.receive(four, Refused{"well\n<0>forged"});
  for (const auto& effect : node.effects)
    if (const auto* log = std::get_if<Log>(&effect)) CHECK(log->text.find('\n') == std::string::npos);
}

TEST_CASE("a long reason is cut where it is written, so that it is read") {
  for (const char* letter : {"x", "\xc3\xa4", "\xff"}) {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += letter;
    for (const Message& message :
         {Message(TakenBack{DeviceId{0x80000}, 1, text}), Message(Refused{text}),
          Message(Answer{1, 0, Errc::busy, text}), Message(ConfigAnswer{1, "", Errc::busy, text}),
          Message(Devices{{DeviceEntry{.id = DeviceId{0x80000}, .address = text, .name = text}}, {}})})
      CHECK(decode(encode(message)).has_value());
  }
}

TEST_CASE("a list of devices that contradicts itself, or would steer a terminal, is not passed on") {
  const auto again = [](const DeviceEntry& entry) {
    const auto message = decode(encode(Devices{{entry}, {}}));
    REQUIRE(message.has_value());
    return std::get<Devices>(*message).changed.front();
  };
  auto entry = Crossroads::offer(DeviceId{0x60000});
  entry.borrower = NodeId{4};
  CHECK(again(entry).borrower == NodeId{});
  entry.state = DeviceState::quarantined;
  CHECK(again(entry) == entry);
  entry.state = DeviceState::borrowed;
  CHECK(again(entry) == entry);
  entry.borrower = NodeId{};
  CHECK(again(entry).state == DeviceState::unavailable);
  entry.name = "Disk\x1b[2J\n";
  CHECK(again(entry).name == "Disk?[2J?");
}

TEST_CASE("a device on its way back to its driver is nobody's, and nobody's to be had") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.command("unavailable", {{"device", "80000"}});
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.find<CloseDevice>() != nullptr);
  CHECK(node.shown(node.first)["state"] == "unavailable");
  CHECK(node.shown(node.first)["borrower"].is_null());
  CHECK(node.lend(five, node.first) == 0);
}

TEST_CASE("a newer request of the same borrower takes the place of one that waits") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.receive(four, ReturnRequest{1, node.first, loan.epoch});
  node.receive(five, BorrowRequest{2, node.first, false});
  node.receive(five, BorrowRequest{3, node.first, false});
  CHECK(node.sent<Answer>(five).front().number == 2);
  CHECK(node.done() == "17: answer busy");
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.sent<Answer>(five).front().number == 3);
  CHECK(node.state(node.first) == "borrowed");
}

TEST_CASE("who connects while a disconnect waits for loans to end is told so, and the disconnect stays") {
  Crossroads node;
  const LoanId loan{node.first, node.lend(four, node.first)};
  node.command("disconnect", {{"node", 4}});
  node.command("connect", {{"node", 4}, {"address", "h:4"}});
  CHECK(node.done() == "reply busy");
  node.on(LinkDown{four, "cut"});
  CHECK(node.find<Dial>() == nullptr);
  node.on(Dialled{NodeId{4}, 40, nonce_of(40)});
  CHECK(node.done() == "drop 40");
  node.on(LoanEnded{loan, std::nullopt});
  CHECK(node.done() == "reply ok");
  const auto status = node.node.status_document();
  for (const auto& peer : status["peers"]) CHECK(peer["node"] != 4);
}

TEST_CASE("unavailable while a quarantined device is tried again ends that") {
  Crossroads node;
  node.on(DeviceLost{node.first, "it crashed"});
  node.command("available", {{"device", "80000"}, {"force", true}});
  CHECK(node.done() == "close 80000");
  node.command("unavailable", {{"device", "80000"}});
  CHECK(node.done() == "reply revoked");
  node.on(DeviceClosed{node.first, std::nullopt, {}});
  CHECK(node.done() == "reply ok");
  CHECK(node.state(node.first) == "unavailable");
}
