// Two bridges between the same two nodes: which is meant, and who may use it.
#include "two_bridges.hpp"
#include "core_lender.hpp"
#include "remote_clients.hpp"
#include "remote_loans.hpp"
#include "test_device.hpp"
#include "user/codec.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::testing;
using core::DeviceMessage;
using Kind = DeviceMessage::Kind;

namespace {

/// Node 8 lends a device to node 4, whose messages the test sends.
struct Lending {
  Lending() {
    core::OpenDevice open{core.id, server.address()};
    devices.perform(open);
    REQUIRE(cluster.reach([this] { return devices.find(core.id) && cluster.far_end(); }));
    core.on(core::Received{link, core::BorrowRequest{1, core.id, false}});
    loan = {core.id, core.sent<core::Answer>()->epoch};
    for (const auto* to : {"first", "other"}) {
      REQUIRE(cluster.reach([&] { return path(to).to != 0; }));
    }
  }
  ~Lending() {
    bool closed = false;
    devices.close_all(std::shared_ptr<void>(nullptr, [&closed](void*) { closed = true; }));
    CHECK(cluster.reach([&closed] { return closed; }));
  }
  /// As node 4 names it: of the bridge that it takes, or of the other.
  core::DevicePath path(std::string_view which) const {
    const auto first = cluster.four->bridges.to(NodeId{8});
    const auto last = cluster.eight->bridges.to(NodeId{4});
    if (which == "first") return first ? device_path(*first->path()) : core::DevicePath{};
    const auto found = last ? device_path(*last->path()).reversed() : core::DevicePath{};
    return found == path("first") ? core::DevicePath{} : found;
  }
  DeviceMessage get_info(std::uint32_t session, core::DevicePath path, std::uint32_t number = 1) const {
    const vfio::Request request = vfio::GetInfo{};
    const auto payload = vfio::user::encode_request(request);
    const auto body = payload.body.bytes();
    return {.loan = loan,
            .session = session,
            .path = path,
            .kind = Kind::command,
            .number = number,
            .code = static_cast<std::uint16_t>(vfio::user::command_of(request)),
            .doorbells = {},
            .payload = std::string(reinterpret_cast<const char*>(body.data()), body.size())};
  }
  /// What node 8 answers first.
  DeviceMessage ask(DeviceMessage message, core::LinkId from = link) {
    said.clear();
    clients.received(from, message);
    REQUIRE(cluster.reach([this] { return !said.empty(); }));
    return said.front();
  }

  static constexpr core::LinkId link = 16;
  core::test::Lender core;
  ::testing::TestServer server{"two-bridges"};
  TwoBridges cluster;
  std::vector<DeviceMessage> said;
  core::LoanId loan;
  LentDevices devices{cluster.eight->context, *cluster.eight->host, cluster.eight->sources};
  RemoteClients clients{cluster.eight->context, core.node, cluster.eight->bridges, devices,
                        [this](core::LinkId, const DeviceMessage& message) { said.push_back(message); }};
};

/// Node 4 opens a device of node 8's; the test answers.
struct Borrowing {
  Borrowing() {
    REQUIRE(cluster.reach(
        [this] { return cluster.far_end() && cluster.eight->bridges.to(NodeId{4}) != cluster.far_end(); }));
    open();
  }
  ~Borrowing() {
    if (opened && *opened) (*opened)->close([] {});
    loans.link_ended(link); // what is asked and has no answer is over
  }
  void open() {
    opened.reset();
    source.open([this](Result<OpenedDevice> device) { opened.emplace(std::move(device)); });
  }
  DeviceMessage answer() const {
    const auto& asked = sent.back();
    const auto bytes = std::as_bytes(std::span(asked.payload));
    const auto payload = vfio::user::encode_answer(vfio::user::Command::get_info,
                                                   bytes.first(std::min(bytes.size(), vfio::user::echo_size)),
                                                   vfio::Info{vfio::device_flag_pci, 9, 5})
                             .value();
    const auto body = payload.body.bytes();
    return {.loan = asked.loan,
            .session = asked.session,
            .path = asked.path.reversed(),
            .kind = Kind::reply,
            .number = asked.number,
            .doorbells = {},
            .payload = std::string(reinterpret_cast<const char*>(body.data()), body.size())};
  }
  core::DevicePath first() const { return device_path(*cluster.four->bridges.to(NodeId{8})->path()); }

  static constexpr core::LinkId link = 16;
  TwoBridges cluster;
  std::vector<DeviceMessage> sent;
  std::optional<Result<OpenedDevice>> opened;
  RemoteLoans loans{cluster.four->context, cluster.four->bridges,
                    [this](core::LinkId, const DeviceMessage& message) { sent.push_back(message); }};
  DeviceSource source = loans.source({DeviceId{0x80000}, 1}, link, 0);
};

} // namespace

TEST_CASE("what one node says of a bridge is meant by the other for the same bridge, whatever the order of addresses") {
  TwoBridges cluster;
  REQUIRE(cluster.reach([&] { return cluster.both_up(); }));
  const auto near = cluster.four->bridges.to(NodeId{8}), far = cluster.far_end();
  REQUIRE(near);
  CHECK(far->path()->lives().own == near->path()->lives().peer);

  SECTION("and no other node's") {
    const auto path = device_path(*near->path());
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{5}, {.own = path.to, .peer = path.from}));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.from, .peer = path.to}));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.to, .peer = path.from + 1}));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.to + 1, .peer = path.from}));
  }
  SECTION("and is taken again while it is up, although one before it is, too") {
    CHECK(cluster.eight->bridges.to(NodeId{4}, far->path()) == far);
  }
  SECTION("and is refused once that bridge has begun a new life") {
    const auto before = device_path(*near->path());
    core::UseBridges none{{}, std::chrono::seconds(1)};
    core::UseBridges again{{cluster.address("1"), cluster.address("2")}, std::chrono::seconds(1)};
    cluster.four->bridges.perform(none);
    cluster.four->bridges.perform(again);
    REQUIRE(cluster.reach([&] {
      const auto now = cluster.four->bridges.to(NodeId{8});
      return now && device_path(*now->path()) != before && cluster.far_end() != nullptr;
    }));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = before.to, .peer = before.from}));
  }
}

TEST_CASE("a bridge whose other end is silent is not used, although it is the one that is meant") {
  TwoBridges cluster(std::chrono::minutes(2));
  REQUIRE(cluster.reach([&] { return cluster.far_end() != nullptr; }));
  const auto path = device_path(*cluster.four->bridges.to(NodeId{8})->path());
  REQUIRE(cluster.reach([&] { return cluster.eight->bridges.to(NodeId{4}) == nullptr; }));
  CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.to, .peer = path.from}));
}

TEST_CASE("a client beyond a bridge is served on the path it named, and its answers name the same") {
  Lending lending;
  const auto path = lending.path("first");
  const auto answer = lending.ask(lending.get_info(1, path));
  CHECK(answer.kind == Kind::reply);
  CHECK(answer.code == 0);
  CHECK(answer.path == path.reversed());

  SECTION("and is gone when that bridge is, not when another is") {
    lending.said.clear();
    lending.clients.lost(lending.cluster.eight->bridges.to(NodeId{4})->path());
    CHECK(lending.ask(lending.get_info(1, path, 2)).kind == Kind::reply);
    lending.said.clear();
    lending.clients.lost(lending.cluster.far_end()->path());
    REQUIRE(lending.cluster.reach([&] { return !lending.said.empty(); }));
    CHECK(lending.said.front().kind == Kind::closed);
  }
  SECTION("and ends when it speaks of another path") {
    CHECK(lending.ask(lending.get_info(1, lending.path("other"), 2)).kind == Kind::closed);
  }
  SECTION("and comes again with a higher number only, on whichever path") {
    DeviceMessage closed{.loan = lending.loan, .session = 1, .path = path, .kind = Kind::closed};
    CHECK(lending.ask(closed).kind == Kind::closed);
    CHECK(lending.ask(lending.get_info(1, path)).kind == Kind::closed);
    const auto again = lending.ask(lending.get_info(2, lending.path("other")));
    CHECK(again.kind == Kind::reply);
    CHECK(again.path == lending.path("other").reversed());
  }
  SECTION("and ends with its peer connection") {
    lending.said.clear();
    lending.clients.link_ended(lending.link);
    REQUIRE(lending.cluster.reach([&] { return !lending.said.empty(); }));
    CHECK(lending.said.front().kind == Kind::closed);
  }
}

TEST_CASE("who begins to use a device over a path that is none, or without the loan, is refused") {
  Lending lending;
  const auto path = lending.path("first");
  auto message = lending.get_info(1, path);
  auto from = lending.link;
  SECTION("a path of no bridge") { message.path.to ^= 1; }
  SECTION("a path from no bridge") { message.path.from ^= 1; }
  SECTION("the path of a peer that is another") { message.path = path.reversed(); }
  SECTION("a loan that there is not") { ++message.loan.epoch; }
  SECTION("a loan of another peer's") { ++from; }
  const auto answer = lending.ask(message, from);
  CHECK(answer.kind == Kind::closed);
  CHECK(answer.session == 1);
  CHECK(answer.path == message.path.reversed());
}

TEST_CASE("a loan names the bridge that it takes, and hears what is said of that one, on its own connection") {
  Borrowing borrowing;
  REQUIRE(borrowing.sent.size() == 1);
  CHECK(borrowing.sent.front().path == borrowing.first());
  auto answer = borrowing.answer();
  auto link = borrowing.link;
  bool heard = false, lost = false;
  SECTION("an answer") { heard = true; }
  SECTION("an answer on another connection") { ++link; }
  SECTION("an answer to another session") { ++answer.session; }
  SECTION("an answer over another bridge") {
    answer.path.from ^= 1;
    lost = true;
  }
  SECTION("the end of the session") {
    answer.kind = Kind::closed;
    lost = true;
  }
  borrowing.loans.received(link, std::move(answer));
  CHECK(borrowing.opened.has_value() == (heard || lost));
  if (borrowing.opened) CHECK(borrowing.opened->has_value() == heard);
}

TEST_CASE("a loan keeps to its bridge while that is up, and its device is lost with that bridge or its connection") {
  Borrowing borrowing;
  const auto bridge = borrowing.cluster.four->bridges.to(NodeId{8})->path();
  borrowing.loans.received(borrowing.link, borrowing.answer());
  REQUIRE((borrowing.opened && *borrowing.opened));
  bool lost = false;
  (*borrowing.opened)->device->on_lost([&lost] { lost = true; });
  SECTION("another bridge goes down") {
    borrowing.loans.lost(nullptr);
    CHECK_FALSE(lost);
  }
  SECTION("its bridge goes down") {
    borrowing.loans.lost(bridge);
    CHECK(lost);
  }
  SECTION("another connection ends") {
    borrowing.loans.link_ended(borrowing.link + 1);
    CHECK_FALSE(lost);
  }
  SECTION("its connection ends") {
    borrowing.loans.link_ended(borrowing.link);
    CHECK(lost);
  }
  SECTION("its next client comes") {
    (*borrowing.opened)->close([] {});
    borrowing.open();
    CHECK(borrowing.sent.back().path == device_path(*bridge));
    CHECK(borrowing.sent.back().session > borrowing.sent.front().session);
  }
}

TEST_CASE("a client that waits for the device, and whose connection ends meanwhile, is told so and never served") {
  Lending lending;
  const auto path = lending.path("first");
  REQUIRE(lending.ask(lending.get_info(1, path)).kind == Kind::reply);
  DeviceMessage closed{.loan = lending.loan, .session = 1, .path = path, .kind = Kind::closed};
  lending.clients.received(lending.link, closed); // the device is cleaned up now
  auto second = lending.get_info(2, path);
  lending.clients.received(lending.link, second);
  lending.said.clear();
  lending.clients.link_ended(lending.link);
  const auto of_second = [&lending](Kind kind) {
    return std::ranges::count_if(lending.said, [kind](const auto& m) { return m.session == 2 && m.kind == kind; });
  };
  CHECK(of_second(Kind::closed) == 1);
  auto third = lending.get_info(3, path);
  lending.clients.received(lending.link, third);
  REQUIRE(lending.cluster.reach([&lending] {
    return std::ranges::any_of(lending.said, [](const auto& m) { return m.session == 3 && m.kind == Kind::reply; });
  }));
  CHECK(of_second(Kind::reply) == 0);
}
