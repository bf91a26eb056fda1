// Messages from somebody they are not for: another borrower, a lender, a connection without a hello, one that is
// closed. Nothing of what others have may change by them.
#include "core_crossroads.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

constexpr LinkId anybody[] = {four, five, six, seven, early, closed, unknown};

struct Word {
  const char* what;
  Message message;
};

/// Ours was not touched, whoever spoke: not the device, not the loan, not a configuration space.
void check_untouched(const Crossroads& node, const Json& before) {
  CHECK(node.picture() == before);
  for (const auto& effect : node.effects) {
    CHECK_FALSE(std::holds_alternative<EndLoan>(effect));
    CHECK_FALSE(std::holds_alternative<ClientsReleased>(effect));
    CHECK_FALSE(std::holds_alternative<CloseLoan>(effect));
    CHECK_FALSE(std::holds_alternative<OpenLoan>(effect));
    CHECK_FALSE(std::holds_alternative<CloseDevice>(effect));
    CHECK_FALSE(std::holds_alternative<Reply>(effect));
  }
}

} // namespace

TEST_CASE("a lent device is the borrower's alone: nobody else borrows, returns or releases it") {
  for (const auto from : anybody) {
    if (from == four) continue;
    Crossroads node;
    const auto epoch = node.lend(four, node.first);
    const auto before = node.picture();
    for (const auto& [what, message] :
         {Word{"borrows", BorrowRequest{1, node.first, false}}, Word{"joins", BorrowRequest{2, node.first, true}},
          Word{"returns", ReturnRequest{3, node.first, epoch}}, Word{"releases", Released{node.first, epoch}}}) {
      CAPTURE(from, what);
      node.receive(from, message);
      check_untouched(node, before);
      CHECK(node.node.admits({node.first, epoch}, four));
      CHECK_FALSE(node.node.admits({node.first, epoch}, from));
    }
    node.command("unavailable", {{"device", "80000"}}); // now somebody is to release it, and that is node 4
    node.on(TellClients{{node.first, epoch}});
    node.receive(from, Released{node.first, epoch});
    CHECK(node.find<ClientsReleased>() == nullptr);
    node.receive(four, Released{node.first, epoch});
    CHECK(node.find<ClientsReleased>() != nullptr);
  }
}

TEST_CASE("only the borrower's own proof opens its loan") {
  Crossroads node;
  const auto mine = node.lend(four, node.first), theirs = node.lend(five, node.second);
  for (const auto link : anybody) {
    CAPTURE(link);
    CHECK(node.node.admits({node.first, mine}, nonce_of(link)) == (link == four));
    CHECK(node.node.admits({node.second, theirs}, nonce_of(link)) == (link == five));
    CHECK(node.node.admits({node.first, mine}, link) == (link == four));
    CHECK(node.node.admits({node.second, theirs}, link) == (link == five));
    CHECK_FALSE(node.node.admits({node.first, theirs}, link));   // another loan's epoch
    CHECK_FALSE(node.node.admits({node.of_six, mine}, link));    // another node's device
    CHECK_FALSE(node.node.admits({DeviceId{0x80077}, 1}, link)); // none at all
  }
  CHECK_FALSE(node.node.admits({node.first, mine}, nonce_of(four) + "0"));
  CHECK_FALSE(node.node.admits({node.first, mine}, std::string{}));
}

TEST_CASE("a node that borrows and lends has two connections, and each is good for its own purpose only") {
  Crossroads node;
  node.accept(NodeId{4}, 30);
  const auto epoch = node.lend(four, node.first);
  CHECK(node.node.admits({node.first, epoch}, four));
  CHECK_FALSE(node.node.admits({node.first, epoch}, 30));
  for (const Message& message :
       {Message{ReturnRequest{1, node.first, epoch}}, Message{BorrowRequest{2, node.second, false}}}) {
    Crossroads other;
    other.accept(NodeId{4}, 30);
    const auto lent = other.lend(four, other.first);
    other.receive(30, message);
    CHECK(other.done() == "drop 30");
    CHECK(other.node.admits({other.first, lent}, four));
  }
  node.connect(NodeId{6}, 31);
  const auto before = node.picture();
  auto offer = Crossroads::offer(node.of_six);
  offer.name = "Another disk";
  node.receive(31, Devices{{offer}, {}});
  CHECK(node.done().find("drop 31") == 0);
  CHECK(node.picture() == before);
}

TEST_CASE("a proof opens a loan only as long as it lasts") {
  Crossroads node;
  const auto former = node.lend(four, node.first);
  node.receive(four, ReturnRequest{1, node.first, former});
  CHECK_FALSE(node.node.admits({node.first, former}, four)); // at once, not when the device is clean
  node.on(LoanEnded{{node.first, former}, std::nullopt});
  const auto next = node.lend(five, node.first);
  for (const auto link : {four, five}) CHECK_FALSE(node.node.admits({node.first, former}, link));
  CHECK(node.node.admits({node.first, next}, five));
  CHECK_FALSE(node.node.admits({node.first, next}, four));
  node.on(LinkDown{five, "cut"});
  CHECK_FALSE(node.node.admits({node.first, next}, nonce_of(five)));
}

TEST_CASE("whoever only lends to this node is cut off when it asks for a device, or returns one") {
  for (const auto from : {six, early}) {
    Crossroads node;
    const auto before = node.picture();
    for (const Message& message :
         {Message{BorrowRequest{1, node.first, false}}, Message{ConfigRequest{2, node.first, ConfigForm::raw}},
          Message{ReturnRequest{3, node.first, 1}}}) {
      Crossroads one;
      one.receive(from, message);
      CHECK(one.done() == fmt::format("drop {}", from));
      CHECK(one.find<ReadConfig>() == nullptr);
      CHECK(one.state(one.first) == "available");
    }
    CHECK(node.picture() == before);
  }
}

TEST_CASE("a device of another node, or none, is neither lent nor read") {
  Crossroads node;
  for (const auto wrong : {DeviceId{0x80077}, node.of_six, DeviceId{0x40000}, DeviceId{0}, DeviceId{0xffffffff}}) {
    const auto before = node.picture();
    CAPTURE(to_string(wrong));
    node.receive(four, BorrowRequest{1, wrong, false});
    CHECK(node.done() == "16: answer no_such_device");
    node.receive(four, ConfigRequest{2, wrong, ConfigForm::vfio});
    CHECK(node.done() == "16: config answer no_such_device");
    node.receive(four, Released{wrong, 1});
    CHECK(node.done().empty());
    node.receive(four, ReturnRequest{3, wrong, 1});
    CHECK(node.find<EndLoan>() == nullptr);
    CHECK(node.picture() == before);
  }
}

TEST_CASE("a loan of this node is its lender's alone: nobody else answers for it or takes it back") {
  for (const auto from : anybody) {
    if (from == six) continue;
    CAPTURE(from);
    for (const auto& [what, message] :
         {Word{"takes back", TakenBack{DeviceId{0x60000}, 7, "mine now"}},
          Word{"offers", Devices{{Crossroads::offer(DeviceId{0x60000})}, {DeviceId{0x60000}}}},
          Word{"takes off the list", Devices{{}, {DeviceId{0x60000}}}}}) {
      CAPTURE(what);
      Crossroads node;
      node.borrow({node.of_six, 7}, six);
      const auto before = node.picture();
      node.receive(from, message);
      check_untouched(node, before);
      CHECK(node.sent<Released>(from).empty());
    }
  }
}

TEST_CASE("nobody but the lender that was asked answers a request") {
  for (const auto from : anybody) {
    if (from == six) continue;
    CAPTURE(from);
    Crossroads node;
    const auto number = node.ask(node.of_six, six);
    node.receive(from, Answer{number, 3, {}, {}});
    CHECK(node.find<OpenLoan>() == nullptr);
    CHECK(node.find<Reply>() == nullptr);
    node.receive(six, Answer{number, 3, {}, {}});
    CHECK(node.done() == "use 60000/3");

    for (const bool own_kind : {true, false}) {
      Crossroads reader;
      reader.command("config-space", {{"device", "60000"}, {"form", "raw"}});
      const auto read = reader.sent<ConfigRequest>(six).at(0).number;
      reader.receive(from, own_kind ? Message{ConfigAnswer{read, "ff", {}, {}}} : Message{Answer{read, 3, {}, {}}});
      CHECK(reader.find<Reply>() == nullptr);
      reader.receive(six, ConfigAnswer{read, "8680", {}, {}});
      REQUIRE(reader.find<Reply>() != nullptr);
      CHECK(reader.find<Reply>()->result.value()["hex"] == "8680");
    }
  }
}

TEST_CASE("a lender that answers in another kind than it was asked is cut off, and whoever asked is told") {
  Crossroads node;
  node.receive(six, ConfigAnswer{node.ask(node.of_six, six), "ff", {}, {}});
  CHECK(node.done() == "drop 18, reply peer_down");
  Crossroads reader;
  reader.command("config-space", {{"device", "60000"}});
  reader.receive(six, Answer{reader.sent<ConfigRequest>(six).at(0).number, 5, {}, {}});
  CHECK(reader.done() == "drop 18, reply peer_down");
}

TEST_CASE("a lender that offers another node's device is cut off, and its word is not taken") {
  for (const auto id : {DeviceId{0x70000}, DeviceId{0x80000}, DeviceId{0x40000}, DeviceId{5}}) {
    Crossroads node;
    auto offer = Crossroads::offer(id);
    offer.name = "Another disk";
    const auto before = node.shown(id);
    node.receive(six, Devices{{offer}, {}});
    CHECK(node.done() == "drop 18");
    CHECK(node.shown(id) == before);
  }
}

TEST_CASE("a lender takes only its own devices off the list") {
  Crossroads node;
  const auto before = node.picture();
  node.receive(six, Devices{{}, {node.of_seven, node.first, DeviceId{0x60077}}});
  CHECK(node.picture() == before);
  node.receive(six, Devices{{}, {node.of_six}});
  CHECK(node.state(node.of_six) == "unknown");
  CHECK(node.state(node.of_seven) == "available");
}

TEST_CASE("a second node with this node's id is refused, also where it dials, and learns why") {
  Crossroads node;
  const auto peers = node.node.status_document()["peers"];
  auto twin = Crossroads::hello(NodeId{8}, "elsewhere");
  for (const auto to : {NodeId{8}, NodeId{0}}) {
    twin.to = to;
    node.on(Accepted{30, nonce_of(30)});
    node.receive(30, twin);
    CHECK(node.done() == "30: refused, drop 30");
    CHECK(node.sent<Refused>(30).at(0).reason == "node id 8 is taken: two nodes have it");
    CHECK(node.node.status_document()["peers"] == peers);
    CHECK(node.state(node.first) == "available");
  }
  node.command("connect", {{"node", 9}, {"address", "h:9"}});
  node.on(Dialled{NodeId{9}, 31, nonce_of(31)});
  node.receive(31, twin);
  CHECK(node.done() == "31: refused, drop 31, reply peer_down");
  CHECK(node.sent<Refused>(31).at(0).reason == "node id 8 is taken: two nodes have it");
}

TEST_CASE("who speaks before its hello, or says hello twice, is cut off") {
  const std::vector<Message> early_words{Heartbeat{},
                                         Devices{},
                                         BorrowRequest{1, DeviceId{0x80000}, false},
                                         ReturnRequest{1, DeviceId{0x80000}, 1},
                                         Answer{1, 1, {}, {}},
                                         TakenBack{DeviceId{0x80000}, 1, ""},
                                         Released{DeviceId{0x80000}, 1},
                                         ConfigRequest{1, DeviceId{0x80000}, ConfigForm::vfio},
                                         ConfigAnswer{1, "ff", {}, {}}};
  for (const auto& message : early_words) {
    Crossroads node;
    node.receive(early, message);
    CHECK(node.done() == "drop 20");
    node.receive(early, message); // what came right behind it
    CHECK(node.effects.empty());
  }
  for (const auto link : {four, six}) {
    Crossroads node;
    node.receive(link, Crossroads::hello(node.node.peer_of(link)));
    CHECK(node.done().find(fmt::format("drop {}", link)) == 0);
  }
}

TEST_CASE("what comes on a connection that is closed, or never was, does nothing at all") {
  Crossroads node;
  for (const Message& message :
       {Message{Crossroads::hello(NodeId{6})}, Message{BorrowRequest{1, node.first, false}}, Message{Refused{"no"}},
        Message{Released{node.first, 1}}, Message{Heartbeat{}}, Message{TakenBack{node.of_six, 1, ""}}})
    for (const auto link : {closed, unknown}) {
      node.receive(link, message);
      CHECK(node.effects.empty());
    }
  node.on(LinkDown{closed, "again"});
  CHECK(node.effects.empty());
}
