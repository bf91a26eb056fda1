// What programs can do with a node, each by a method with types; and how a device comes to its end.
#include "checks.hpp"
#include "own_nodes.hpp"

#include <smartio/smartio.hpp>
#include <sys/wait.h>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

namespace {

/// Lends itself a disk.
struct OwnDisk {
  SimulatedDisk disk{};
  Place place{};
  Node node = start_node(8, place);
  DeviceId id = node.add(disk.address()).value();
  Device borrow() const {
    REQUIRE(node.make_available(id));
    return node.borrow(id).value();
  }
};

Ended end_of(const Device& device) {
  REQUIRE(readable(device.revoked_fd(), 20000));
  const auto ended = device.ended();
  REQUIRE(ended);
  REQUIRE(*ended);
  return **ended;
}

} // namespace

TEST_CASE("a node tells of devices, peers, loans, filters and options in types") {
  const OwnDisk own;
  const auto& node = own.node;
  REQUIRE(node.make_available(own.id));
  const auto device = node.borrow(own.id).value();
  const auto listed = node.devices().value();
  REQUIRE(listed.size() == 1);
  CHECK(listed.front().class_code == 0x010802);
  CHECK(listed.front().state == DeviceState::borrowed);

  const auto peers = node.peers().value();
  REQUIRE(peers.size() == 1);
  CHECK(peers.front().role == PeerRole::self);
  CHECK(peers.front().state == PeerState::up);

  const auto loans = node.loans().value();
  REQUIRE(loans.size() == 1);
  CHECK(loans.front().device == own.id);
  CHECK(loans.front().pid == ::getpid());
  CHECK_FALSE(loans.front().shared);

  CHECK(node.set_option("peer-timeout", "2500"));
  CHECK(node.options().value().at("peer-timeout") == "2500");
  CHECK(fails_with(node.set_option("peer-timeot", "2500"), Errc::bad_request));

  REQUIRE(node.add_filter({.ids = "ffff:"}));
  CHECK(node.available_filter({.ids = "ffff::0108"}).value().empty());
  const auto filters = node.filters().value();
  REQUIRE(filters.rules.size() == 2);
  CHECK(filters.rules[0].filter.ids == "ffff:");
  CHECK_FALSE(filters.rules[0].available);
  CHECK(filters.rules[1].available);
  CHECK(node.unavailable_filter({.ids = "ffff::0108"}));
  CHECK(node.remove_filter({.ids = "ffff:"}));
  CHECK(node.filters().value().rules.empty());
  CHECK(fails_with(node.add_filter({}), Errc::bad_request));
  CHECK(node.scan().value().empty());
}

TEST_CASE("devices are looked for as lspci does") {
  const OwnDisk own;
  const auto found = [&own](const Filter& filter) { return own.node.devices(filter).value().size(); };
  CHECK(found({.ids = "::0108"}) == 1);
  CHECK(found({.ids = "1af4:"}) == 1);
  CHECK(found({.ids = "::0200"}) == 0);
  CHECK(found({.ids = "", .slot = "00:00.0"}) == 0); // it is no PCI function
  CHECK(fails_with(own.node.devices({.ids = "nonsense"}), Errc::bad_request));
}

TEST_CASE("a configuration space is bytes") {
  const OwnDisk own;
  CHECK(fails_with(own.node.config_space(own.id), Errc::wrong_state)); // it is open once it is available
  REQUIRE(own.node.make_available(own.id));
  for (const auto form : {ConfigForm::vfio, ConfigForm::emulated}) {
    const auto bytes = own.node.config_space(own.id, form).value();
    REQUIRE(bytes.size() >= 256);
    CHECK(bytes[0] == std::byte{0xf4});
    CHECK(bytes[1] == std::byte{0x1a});
  }
  CHECK_FALSE(own.node.config_space(own.id, static_cast<ConfigForm>(9)));
}

TEST_CASE("a borrowed device says what it is") {
  const OwnDisk own;
  const auto device = own.borrow();
  CHECK(device.info().id == own.id);
  CHECK(device.info().node == NodeId{8});
  CHECK(device.info().vendor == 0x1af4);
  CHECK(device.info().class_code == 0x010802);
  const auto straight = [] {
    const SimulatedDisk other;
    return open_device(other.address()).value();
  }();
  CHECK(straight.info().vendor == 0x1af4);
  CHECK(straight.info().class_code == 0x010802);
  CHECK(straight.info().address.starts_with("vfio-user:/"));
  CHECK(end_of(straight).how == LoanEnd::device_lost);
}

TEST_CASE("bus mastering is a call") {
  const OwnDisk own;
  const auto device = own.borrow();
  const auto command = [&device] { return device.read_config(4, 2).value(); };
  REQUIRE(device.write_config(4, 2, 2)); // registers answer
  REQUIRE(command() == 2);
  REQUIRE(device.bus_master(true));
  CHECK(command() == 6);
  REQUIRE(device.bus_master(false));
  CHECK(command() == 2);
}

TEST_CASE("a device that was given back is another's at once, and nothing of it can be used") {
  const TwoNodes nodes;
  const auto device = nodes.borrower.borrow(nodes.id).value();
  const auto bar = device.map_bar(0).value();
  const auto memory = Memory::allocate(4096).value();
  const auto window = device.map_dma(memory, Access::read_write).value();
  CHECK(device.ended().value() == std::nullopt);
  REQUIRE(device.give_back());
  CHECK(bar.read(0, 4) == UINT32_MAX);
  CHECK(fails_with(device.map_bar(0), Errc::revoked));
  CHECK(readable(device.revoked_fd()));
  CHECK(device.ended().value()->how == LoanEnd::returned);
  CHECK(device.give_back());
  CHECK(nodes.lender.borrow(nodes.id)); // also while its objects live
}

TEST_CASE("a program gives back what it took, and not what its host keeps") {
  const TwoNodes nodes;
  REQUIRE(nodes.borrower.call("borrow", R"({"device":"80000"})"));
  const auto device = nodes.borrower.borrow(nodes.id).value();
  REQUIRE(device.give_back());
  CHECK(nodes.borrower.loans().value().size() == 1);
  CHECK(nodes.borrower.borrow(nodes.id)); // under the same loan
}

TEST_CASE("a device that its lender makes unavailable is taken back") {
  const TwoNodes nodes;
  const auto device = nodes.borrower.borrow(nodes.id).value();
  REQUIRE(nodes.lender.make_unavailable(nodes.id));
  const auto ended = end_of(device);
  CHECK(ended.how == LoanEnd::taken_back);
  CHECK(ended.why == "node 8 made it unavailable");
}

TEST_CASE("a device whose lender stops in order is taken back") {
  const TwoNodes nodes;
  const auto device = nodes.borrower.borrow(nodes.id).value();
  REQUIRE(nodes.lender.stop());
  CHECK(end_of(device).how == LoanEnd::taken_back);
}

TEST_CASE("a device whose server ends is lost") {
  TwoNodes nodes;
  const auto device = nodes.borrower.borrow(nodes.id).value();
  nodes.disk.reset();
  CHECK(end_of(device).how == LoanEnd::device_lost);
}

TEST_CASE("a device whose loan this host gives back is returned") {
  const TwoNodes nodes;
  const auto device = nodes.borrower.borrow(nodes.id).value();
  REQUIRE(nodes.borrower.give_back(nodes.id));
  const auto ended = end_of(device);
  CHECK(ended.how == LoanEnd::returned);
  CHECK(ended.why == "node 4 returned it");
  CHECK(nodes.borrower.give_back(nodes.id)); // nothing happens
}

TEST_CASE("a device whose node ends is lost with it") {
  const TwoNodes nodes;
  const auto started = nodes.borrower.borrow(nodes.id, {.shared = true}).value();
  const auto attached = Node::attach(nodes.at_borrower.path).value();
  REQUIRE(nodes.borrower.stop());
  CHECK(end_of(started).how == LoanEnd::node_lost);
  CHECK(fails_with(attached.devices(), Errc::peer_down));
}

TEST_CASE("empty objects can be tested, assigned and destroyed") {
  const OwnDisk own;
  auto device = own.borrow();
  auto bar = device.map_bar(0).value();
  auto memory = Memory::allocate(4096).value();
  auto window = device.map_dma(memory, Access::read).value();
  auto interrupt = device.interrupt(0).value();
  auto events = own.node.events().value();
  auto node = own.node;
  const auto moved = [](auto& from) {
    std::remove_reference_t<decltype(from)> empty, to(std::move(from));
    const bool emptied = !from && !empty && to; // NOLINT(bugprone-use-after-move): that is what is tested
    from = std::move(to);
    return emptied && from && !to;
  };
  CHECK((moved(device) && moved(bar) && moved(memory) && moved(window) && moved(interrupt) && moved(events) &&
         moved(node)));
}

TEST_CASE("a process that was forked ends without harm to its parent") {
  const OwnDisk own;
  const auto device = own.borrow();
  const auto bar = device.map_bar(0).value();
  const auto child = ::fork();
  if (child == 0) ::_exit(7);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 7);
  CHECK(bar.read(0, 8).value() != UINT64_MAX);
  CHECK(own.node.devices());
}
