// Where device and memory meet: on one host, over a bridge, nowhere.
#include "core_lender.hpp"
#include "resolver.hpp"
#include "result.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

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
    on(Received{16, Hello{1, NodeId{8}, NodeId{4}, "here", std::string(32, 'f'), nonce}});
    on(Received{16, Devices{{{DeviceId{0x80000}, address, "Disk", 1, 2, 3, DeviceState::available, {}}}, {}}});
  }
  Errc refusal() {
    borrow();
    const auto* reply = find<Reply>();
    return reply == nullptr ? Errc{} : static_cast<Errc>(reply->result.error().code.value());
  }
};

} // namespace

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

TEST_CASE("what is to be reserved of the window goes with the loan, and an open loan gets no more") {
  FarBorrower node;
  node.on(Started{});
  node.lender("0000:01:00.0");
  node.bridge(true);
  const auto borrow = [&node](Json window) {
    node.on(Command{2, 9, "borrow", {{"device", "80000"}, {"window", std::move(window)}}});
    const auto* reply = node.find<Reply>();
    return reply == nullptr || reply->result ? Errc{} : static_cast<Errc>(reply->result.error().code.value());
  };
  for (const auto& odd : {Json("2M"), Json(-1), Json(1.5), Json(nullptr)}) CHECK(borrow(odd) == Errc::bad_request);
  CHECK(borrow(4096) == Errc{});
  CHECK(borrow(8192) == Errc::wrong_state); // while it is asked for
  node.on(Received{16, Answer{1, 5, {}, {}}});
  REQUIRE(node.find<OpenLoan>() != nullptr);
  CHECK(node.find<OpenLoan>()->window == 4096);
  node.on(LoanOpened{{DeviceId{0x80000}, 5}, "/cntrl"});
  CHECK(node.find<Reply>()->note.empty());
  CHECK(borrow(8192) == Errc::wrong_state);
  CHECK(borrow(4096) == Errc{});
  CHECK(node.find<Reply>()->note == "device 80000 is borrowed already");
}

TEST_CASE("where the lender is on this host nothing is reserved, and whoever asked is told") {
  FarBorrower node;
  node.on(Started{});
  node.on(Accepted{16, nonce});
  node.on(Received{16, Hello{1, NodeId{8}, NodeId{4}, "there", std::string(32, 'f'), nonce}});
  node.on(
      Received{16, Devices{{{DeviceId{0x80000}, "vfio-user:/d", "Disk", 1, 2, 3, DeviceState::available, {}}}, {}}});
  node.on(Command{2, 9, "borrow", {{"device", "80000"}, {"window", 4096}}});
  node.on(Received{16, Answer{1, 5, {}, {}}});
  node.on(LoanOpened{{DeviceId{0x80000}, 5}, "/cntrl"});
  REQUIRE(node.find<Reply>() != nullptr);
  CHECK(node.find<Reply>()->result.has_value());
  CHECK(node.find<Reply>()->note.find("nothing was reserved") == 0);
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

TEST_CASE("where two bridges lead to a borrower, its loans end with the second") {
  Lender lender;
  lender.on(LinkDown{16, ""});
  lender.on(Dialled{NodeId{4}, 17, nonce});
  lender.on(Received{17, Hello{1, NodeId{4}, NodeId{8}, "there", "", nonce}});
  for (const char* address : {"0000:06:00.0", "0000:07:00.0"})
    lender.on(BridgeChanged{.address = address, .peer = NodeId{4}, .up = true});
  lender.on(Received{17, BorrowRequest{5, lender.id, false}});
  lender.on(BridgeChanged{.address = "0000:06:00.0", .peer = NodeId{4}, .up = false, .reason = "it is silent"});
  CHECK(lender.find<EndLoan>() == nullptr);
  CHECK(lender.node.admits({lender.id, 1}, LinkId{17}));
  lender.on(BridgeChanged{.address = "0000:07:00.0", .peer = NodeId{4}, .up = false, .reason = "it is silent"});
  CHECK(lender.find<EndLoan>() != nullptr);
}
