// Several nodes in virtual time: cases that take more than one node, and random walks through everything that users,
// programs, devices, hosts and the network may do, with what must never be looked for after each step.
#include "core_world.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

const std::vector<std::pair<unsigned, std::string>> three{{4, "one host"}, {5, "one host"}, {8, "another host"}};
const char* const addresses[] = {"0000:01:00.0", "0000:01:00.1", "vfio-user:/disk"};

/// Everybody lends everything to everybody.
void furnish(World& world) {
  for (unsigned host = 0; host < world.hosts.size(); ++host) {
    for (const char* address : addresses) world.command(host, "add", {{"device", address}});
    world.run_for(milliseconds{100});
    for (const char* address : addresses) world.command(host, "available", {{"device", address}});
    for (unsigned peer = 0; peer < world.hosts.size(); ++peer) {
      if (peer == host) continue;
      const auto id = number(world.hosts[peer].id);
      world.command(host, "connect", {{"node", id}, {"address", fmt::format("h:{}", id)}, {"wait", true}});
      if (peer < host && world.hosts[peer].boot_id != world.hosts[host].boot_id) world.bridge(host, peer, true);
    }
  }
  world.run_for(milliseconds{2000});
}

void require_no_faults(const World& world) {
  if (world.faults.empty()) return;
  FAIL("after " << world.events << " events: " << world.faults.front());
}

DeviceId any_device(World& world) {
  return make_device_id(world.dice.of(world.hosts).id, static_cast<std::uint16_t>(world.dice.below(3)));
}

/// A loan that some host has, or had a moment ago.
std::optional<std::pair<unsigned, LoanId>> any_loan(World& world) {
  const auto host = static_cast<unsigned>(world.dice.below(world.hosts.size()));
  if (world.hosts[host].sockets.empty()) return std::nullopt;
  return std::pair{host, world.dice.of(world.hosts[host].sockets).first};
}

void users_do_something(World& world) {
  auto& dice = world.dice;
  const auto host = static_cast<unsigned>(dice.below(world.hosts.size()));
  const auto program = ControlId{1 + dice.below(4)};
  const auto device = to_string(any_device(world));
  const auto own = to_string(make_device_id(world.hosts[host].id, static_cast<std::uint16_t>(dice.below(3))));
  const auto peer = number(dice.of(world.hosts).id);
  switch (dice.below(16)) {
  case 0:
  case 1:
  case 2: return world.command(host, "borrow", {{"device", device}, {"shared", dice.one_in(2)}}, program);
  case 3:
  case 4: return world.command(host, "open", {{"device", device}, {"shared", dice.one_in(2)}}, program);
  case 5:
  case 6: return world.command(host, "return", {{"device", device}}, program);
  case 7: return world.command(host, "return", {{"device", device}, {"opened", true}}, program);
  case 8: return world.tell(host, ControlClosed{program});
  case 9:
  case 10: return world.command(host, "available", {{"device", own}, {"force", dice.one_in(2)}});
  case 11: return world.command(host, "unavailable", {{"device", own}});
  case 12:
    if (dice.one_in(2)) return world.command(host, "remove", {{"device", own}});
    return world.command(host, "add", {{"device", addresses[dice.below(3)]}});
  case 13: return world.command(host, "config-space", {{"device", device}});
  case 14: return world.command(host, "disconnect", {{"node", peer}});
  default: return world.command(host, "connect", {{"node", peer}, {"address", fmt::format("h:{}", peer)}});
  }
}

void hosts_do_something(World& world) {
  auto& dice = world.dice;
  const auto host = static_cast<unsigned>(dice.below(world.hosts.size()));
  const auto loan = any_loan(world);
  const std::string address = addresses[dice.below(3)];
  switch (dice.below(12)) {
  case 0:
    if (loan) world.tell(loan->first, FabricLost{loan->second, "its connection ended"});
    return;
  case 1: return world.tell(host, DeviceLost{make_device_id(world.hosts[host].id, 0), "its server went away"});
  case 2: return world.tell(host, DeviceVanished{address, "pulled out"});
  case 3: return world.tell(host, DeviceAppeared{address});
  case 4:
    if (!dice.one_in(10)) return;
    if (world.hosts[host].node) return world.crash(host);
    return world.start(host);
  case 5:
    if (!world.hosts[host].node) world.start(host);
    return;
  case 6: return world.bridge(0, 2, dice.one_in(2));
  case 7:
    if (!world.connections.empty()) world.cut(dice.below(world.connections.size()));
    return;
  case 8:
    if (dice.one_in(4) && !world.connections.empty()) world.silence(world.connections.size() - 1 - dice.below(3) % 3);
    return;
  default:
    if (loan) world.use(loan->first, loan->second);
    if (loan) world.intrude(host, loan->second);
  }
}

} // namespace

TEST_CASE("of several nodes that ask for one device at once, one gets it, and each gets an answer") {
  World world(1, three);
  furnish(world);
  for (unsigned host = 0; host < 3; ++host) world.command(host, "borrow", {{"device", "80000"}});
  world.run_for(milliseconds{300});
  require_no_faults(world);
  CHECK(world.loans == 1);
  for (const auto& host : world.hosts) CHECK(host.requests.empty());
  world.rest();
  require_no_faults(world);
  CHECK(world.ends == 1);
}

TEST_CASE("a device that several share is theirs until the last one returns it") {
  World world(2, three);
  furnish(world);
  for (unsigned host = 0; host < 3; ++host) world.command(host, "borrow", {{"device", "80000"}, {"shared", true}});
  world.run_for(milliseconds{300});
  CHECK(world.loans == 3);
  world.command(0, "return", {{"device", "80000"}});
  world.run_for(milliseconds{2000});
  CHECK(world.hosts[2].devices[DeviceId{0x80000}].users.size() == 2);
  world.rest();
  require_no_faults(world);
  CHECK(world.ends == 3);
}

TEST_CASE("a connection that falls silent costs both ends the loan in the time of silence, and no more than that") {
  World world(3, three);
  furnish(world);
  world.command(0, "borrow", {{"device", "80000"}});
  world.command(0, "borrow", {{"device", "50000"}});
  world.run_for(milliseconds{2000});
  REQUIRE(world.loans == 2);
  for (std::size_t i = 0; i < world.connections.size(); ++i) {
    const auto& ends = world.connections[i].ends;
    if (ends[0].host == 2 && ends[1].host == 0) world.silence(i);
  }
  world.run_for(milliseconds{2000});
  CHECK(world.ends == 0); // not yet
  world.run_for(milliseconds{2500});
  CHECK(world.ends == 1);
  CHECK(world.hosts[0].sockets.size() == 1);
  CHECK(world.hosts[0].sockets.begin()->first.device == DeviceId{0x50000});
  world.rest();
  require_no_faults(world);
}

TEST_CASE("a host that crashes takes its loans with it, and lends again when it is back") {
  for (const unsigned crashing : {0U, 2U}) {
    World world(4, three);
    furnish(world);
    world.command(0, "borrow", {{"device", "80002"}});
    world.command(0, "borrow", {{"device", "80000"}});
    world.run_for(milliseconds{1000});
    world.crash(crashing);
    world.run_for(milliseconds{5000});
    CHECK(world.hosts[0].sockets.empty());
    CHECK(world.hosts[2].devices[DeviceId{0x80000}].users.empty());
    world.start(crashing);
    world.run_for(milliseconds{6000}); // dialled again every 5 s at least
    world.command(1, "borrow", {{"device", "80000"}});
    if (crashing == 0) world.bridge(2, 1, true);
    world.run_for(milliseconds{2000});
    require_no_faults(world);
    world.rest();
    require_no_faults(world);
  }
}

TEST_CASE("whatever happens in whatever order: nothing is lent twice, no end is lost, and all comes to rest") {
  constexpr std::uint64_t walks = 12, steps = 10000;
  std::uint64_t loans = 0, ends = 0, events = 0;
  for (std::uint64_t seed = 1; seed <= walks; ++seed) {
    World world(seed, three);
    furnish(world);
    INFO("seed " << seed);
    for (std::uint64_t step = 1; step <= steps; ++step) {
      world.trouble = true;
      if (!world.clock.idle() && !world.dice.one_in(12))
        world.clock.step();
      else if (world.dice.one_in(3))
        hosts_do_something(world);
      else
        users_do_something(world);
      if (step % 2500 == 0) world.rest();
      require_no_faults(world);
    }
    loans += world.loans;
    ends += world.ends;
    events += world.events;
  }
  INFO(events << " events, " << loans << " loans, " << ends << " ends");
  CHECK(loans > 500); // the walks went somewhere
  CHECK(ends > 500);
}
