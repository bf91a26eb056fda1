// The two ends of a bridge find each other, and notice the other's end; on the simulated bridge.
#include "ntb_nodes.hpp"

#include <array>
#include <bit>

using namespace smartio;
using namespace smartio::testing;
using fabric::ntb::Peer;
using namespace std::chrono_literals;

namespace {

std::uint64_t map(Node& node, int fd, std::uint64_t bytes) {
  const auto offset = node.peer->reserve(bytes).value();
  bool mapped = false;
  node.peer->device()->submit(
      vfio::DmaMap{node.peer->inbound(offset), bytes, Access::read_write, duplicate(fd).value(), 0},
      [&mapped](const vfio::Reply& reply) { mapped = reply.has_value(); });
  REQUIRE(mapped);
  return offset;
}

/// The five words that the peer of `node` wrote into its scratchpads, and what another one would write there.
struct Words {
  explicit Words(NtbHost& to) : host(to) {
    for (unsigned i = 0; i < word.size(); ++i) word[i] = static_cast<std::uint32_t>(host.reg(scratchpad(i)));
  }
  static std::uint32_t scratchpad(unsigned index) { return 0x80 + 4 * index; }
  /// The check word, made of all before it.
  void seal() { word[4] = ~(word[0] ^ word[1] ^ std::rotl(word[2], 11) ^ std::rotl(word[3], 22)); }
  void write(NtbHost& from) const { // by way of the peer's registers, and with its doorbell
    for (unsigned i = 0; i < word.size(); ++i) from.set_reg(0x8080 + 4 * i, word[i]);
    from.set_reg(0x100, 1);
  }
  NtbHost& host;
  std::array<std::uint32_t, 5> word{};
};

} // namespace

TEST_CASE("the ends of a bridge learn each other's node id and room") {
  Nodes nodes(any_chip());
  REQUIRE(nodes.both_up());
  CHECK(nodes.a.peer->state().node == NodeId{8});
  CHECK(nodes.b.peer->state().node == NodeId{4});
  CHECK(nodes.a.peer->state().aperture_bytes == NtbHost::window_bytes);
  CHECK(nodes.a.changes == 1);
}

TEST_CASE("all of a window can be reserved but the control page") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  auto& peer = *nodes.a.peer;
  CHECK_FALSE(peer.reserve(NtbHost::window_bytes).has_value());
  CHECK(peer.reserve(NtbHost::window_bytes - 0x1000).has_value());
  CHECK_FALSE(peer.reserve(1).has_value());
}

TEST_CASE("a window is not where the processor's interrupts are") {
  Nodes nodes(any_chip());
  REQUIRE(nodes.both_up());
  CHECK(std::to_underlying(nodes.a.peer->inbound(0)) >= 1ULL << 32);
}

TEST_CASE("a flush of a bridge that does not answer is an error") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  std::vector<bool> done;
  const auto flush = [&] {
    nodes.a.peer->flush([&done](const Result<void>& result) { done.push_back(result.has_value()); });
  };
  flush();
  nodes.pair.bridge.detach(Side::a);
  flush();
  CHECK(done == std::vector{true, false});
}

TEST_CASE("the control doorbell stays enabled whatever doorbells are claimed and released") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  nodes.bridge_of_a->registers.clear();
  const auto bit = nodes.a.peer->claim_doorbell([] {}).value();
  const std::uint64_t both = 1U | std::uint64_t{1} << bit, disable = 0x48;
  const auto disabled = [&] {
    REQUIRE(nodes.bridge_of_a->registers.back().offset == disable);
    return nodes.bridge_of_a->registers.back().value;
  };
  CHECK((disabled() & both) == 0);
  nodes.a.peer->release_doorbell(bit);
  CHECK((disabled() & both) == both - 1);
}

TEST_CASE("a doorbell that is released while it is being cleared rings nobody") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  int rung = 0, cleared = 0;
  const auto bit = nodes.a.peer->claim_doorbell([&rung] { ++rung; }).value();
  nodes.bridge_of_a->written = [&](std::uint64_t offset) {
    if (offset != 0x40) return; // doorbell status, which is cleared by ones
    ++cleared;
    nodes.a.peer->release_doorbell(bit);
  };
  nodes.b.peer->ring(bit, [](const Result<void>&) {});
  CHECK(nodes.reach([&] { return cleared > 0; }));
  CHECK(rung == 0);
}

TEST_CASE("all doorbells can be claimed but the first") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  for (int i = 1; i < 32; ++i) CHECK(nodes.a.peer->claim_doorbell([] {}).has_value());
  CHECK_FALSE(nodes.a.peer->claim_doorbell([] {}).has_value());
}

TEST_CASE("a peer that leaves is missed at once, and found when it comes back") {
  Nodes nodes(any_chip());
  REQUIRE(nodes.both_up());
  bool left = false;
  nodes.b.peer->close([&left] { left = true; });
  CHECK(nodes.reach([&] { return left && !nodes.a.up(); }));
  CHECK(nodes.a.peer->state().reason != "it is silent");
  nodes.b.peer.reset();
  nodes.pair.b.attach(); // its device was closed and opened again
  Node again(nodes.io, nodes.pair.b, 8);
  CHECK(nodes.reach([&] { return nodes.a.up() && again.up(); }));
}

TEST_CASE("silence is the end of a peer although the link stays up") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  nodes.b.peer.reset(); // as if its process hung: nothing is told, no register changes
  CHECK(nodes.reach([&] { return !nodes.a.up(); }));
  CHECK(nodes.a.peer->state().reason == "it is silent");
}

TEST_CASE("a link that comes back without the bridges' registers is put in order again") {
  Nodes nodes(any_chip());
  REQUIRE(nodes.both_up());
  const auto memory = make_memfd("memory", 0x1000).value();
  const auto offset = map(nodes.b, memory.get(), 0x1000);
  nodes.pair.bridge.set_faults({.link_down = true, .loses_registers = true});
  CHECK(nodes.reach([&] { return !nodes.a.up() && !nodes.b.up(); }));
  CHECK(nodes.a.peer->state().reason == "the bridge's link is down");
  nodes.pair.bridge.set_faults({});
  CHECK(nodes.both_up());
  nodes.pair.a.write(Peer::aperture_region, offset, 8, 0x55);
  CHECK(nodes.pair.a.read(Peer::aperture_region, offset, 8) == 0x55);
}

TEST_CASE("what a bridge lost while its link was down, too shortly to be seen, is set again once the peer was silent") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  nodes.b.peer.reset();
  REQUIRE(nodes.reach([&] { return !nodes.a.up(); }));
  constexpr std::uint32_t window_base = 0x10; // of window 0 of generation 4, IMBAR1XBASE
  nodes.pair.a.set_reg(window_base, 0, 8);
  CHECK(nodes.reach([&] { return nodes.pair.a.reg(window_base, 8) != 0; }));
}

TEST_CASE("scratchpads that make no sense are no peer, and are written anew") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  for (unsigned i = 0; i < 16; ++i) nodes.pair.b.set_reg(0x8080 + 4 * i, 0xffffffff);
  nodes.pair.b.set_reg(0x100, 1); // have a look
  CHECK(nodes.reach([&] { return !nodes.a.up(); }));
  CHECK(nodes.both_up());
}

TEST_CASE("a link may come and go at any time, and peers that found each other stay together") {
  for (int delay = 0; delay < 60; delay += 3) {
    Nodes nodes("gen4");
    REQUIRE(nodes.both_up());
    nodes.io.run_for(std::chrono::milliseconds(delay));
    nodes.pair.bridge.set_faults({.link_down = true, .loses_registers = true});
    REQUIRE(nodes.reach([&] { return !nodes.a.up() && !nodes.b.up(); }));
    nodes.io.run_for(std::chrono::milliseconds(delay));
    nodes.pair.bridge.set_faults({});
    CHECK(nodes.both_up());
    nodes.io.poll(); // changes are told a moment after
    const int changes = nodes.a.changes + nodes.b.changes;
    nodes.io.run_for(700ms);
    INFO(delay);
    CHECK(nodes.both_up());
    CHECK(nodes.a.changes + nodes.b.changes == changes);
  }
}

TEST_CASE("what a peer wrote before the link went down is no sign of life afterwards") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  nodes.b.peer.reset();
  const auto count = nodes.pair.b.read(Peer::aperture_region, 8, 4);
  nodes.pair.b.write(Peer::aperture_region, 8, 4, count + 1); // not seen before the link is down
  nodes.pair.bridge.set_faults({.link_down = true});
  REQUIRE(nodes.reach([&] { return !nodes.a.up(); }));
  nodes.pair.bridge.set_faults({});
  const int changes = nodes.a.changes;
  nodes.io.run_for(200ms);
  CHECK_FALSE(nodes.a.up());
  CHECK(nodes.a.changes == changes);
}

TEST_CASE("a hello of which one bit is wrong is nobody's") {
  for (unsigned word = 0; word < 5; ++word)
    for (const unsigned bit : {0U, 13U, 31U}) {
      INFO(word << " " << bit);
      Nodes nodes("gen4");
      REQUIRE(nodes.both_up());
      nodes.b.peer.reset(); // it does not write its own again
      Words hello(nodes.pair.a);
      hello.word[word] ^= 1U << bit;
      hello.write(nodes.pair.b);
      REQUIRE(nodes.reach([&] { return !nodes.a.up(); }));
      CHECK(nodes.a.peer->state().reason == "it has left");
    }
}

TEST_CASE("a hello with values out of range is nobody's, or counts for what there is") {
  struct Row {
    const char* what;
    unsigned word;
    std::uint32_t value;
    const char* reason; ///< empty: it is a good one, of another life
  };
  const Row rows[]{
      {"node 0", 1, 1U << 16, "it has left"},
      {"version 0", 1, 8, "it has left"},
      {"the version after ours", 1, 2U << 16 | 8, "it has left"},
      {"another program's", 0, 0x12345678, "it has left"},
      {"another life", 2, 0x55, "it has started anew"},
      {"more room than there are addresses", 3, UINT32_MAX, "it has started anew"},
      {"no room", 3, 0, "it has started anew"},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    Nodes nodes("gen4");
    REQUIRE(nodes.both_up());
    nodes.b.peer.reset();
    Words hello(nodes.pair.a);
    hello.word[row.word] = row.value;
    hello.seal();
    hello.write(nodes.pair.b);
    REQUIRE(nodes.reach([&] { return !nodes.a.up(); }));
    CHECK(nodes.a.peer->state().reason == row.reason);
    if (row.word < 2) continue;
    // Once it signs what it says, it is the peer, with no more room than we reach.
    const auto ours = nodes.pair.b.reg(Words::scratchpad(2));
    for (std::uint32_t count = 1000; count < 1400 && !nodes.a.up(); ++count) {
      nodes.pair.b.write(Peer::aperture_region, 0, 4, hello.word[2]);
      nodes.pair.b.write(Peer::aperture_region, 4, 4, ours);
      nodes.pair.b.write(Peer::aperture_region, 8, 4, count);
      nodes.io.run_for(10ms);
    }
    CHECK(nodes.a.up());
    CHECK(nodes.a.peer->state().node == NodeId{8});
    CHECK(nodes.a.peer->state().aperture_bytes == (row.value == 0 ? 0 : NtbHost::window_bytes));
  }
}

TEST_CASE("signs of another life, for another, or without progress are no signs of life") {
  struct Row {
    const char* what;
    unsigned place;
    std::uint32_t xored;
    bool counts;
  };
  for (const auto& row : {Row{"from another life", 0, 1, true}, Row{"for another life", 4, 1, true},
                          Row{"always the same count", 8, 0, false}}) {
    INFO(row.what);
    Nodes nodes("gen4");
    REQUIRE(nodes.both_up());
    nodes.b.peer.reset();
    const std::array<std::uint32_t, 2> epochs{static_cast<std::uint32_t>(nodes.pair.a.reg(Words::scratchpad(2))),
                                              static_cast<std::uint32_t>(nodes.pair.b.reg(Words::scratchpad(2)))};
    const auto first = static_cast<std::uint32_t>(nodes.pair.b.read(Peer::aperture_region, 8, 4));
    bool down = false;
    for (std::uint32_t i = 1; i < 500 && !down; ++i) {
      for (unsigned word = 0; word < 2; ++word)
        nodes.pair.b.write(Peer::aperture_region, 4 * word, 4, epochs[word] ^ (row.place == 4 * word ? row.xored : 0));
      nodes.pair.b.write(Peer::aperture_region, 8, 4, first + (row.counts ? i : 0));
      nodes.io.run_for(10ms);
      down = !nodes.a.up();
    }
    CHECK(down);
    CHECK(nodes.a.peer->state().reason == "it is silent");
  }
}

TEST_CASE("a peer that starts anew between two looks is told of as down before it is up again") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  std::vector<bool> seen;
  nodes.a.seen = [&seen, &nodes] { seen.push_back(nodes.a.up()); };
  Words hello(nodes.pair.a);
  const auto ours = nodes.pair.b.reg(Words::scratchpad(2));
  nodes.b.peer.reset();
  ++hello.word[2];
  hello.seal();
  // All of it is there before the other end looks: the new hello, and a sign of the new life.
  nodes.pair.b.write(Peer::aperture_region, 0, 4, hello.word[2]);
  nodes.pair.b.write(Peer::aperture_region, 4, 4, ours);
  nodes.pair.b.write(Peer::aperture_region, 8, 4, 1000000);
  hello.write(nodes.pair.b);
  REQUIRE(nodes.reach([&] { return seen.size() >= 2; }));
  CHECK_FALSE(seen[0]);
  CHECK(seen[1]);
}

TEST_CASE(
    "what a peer leaves behind is closed in order: its word is taken back, its window closed, its link given up") {
  Nodes nodes("gen4");
  REQUIRE(nodes.both_up());
  auto& log = nodes.bridge_of_a->registers;
  log.clear();
  bool left = false;
  nodes.a.peer->close([&left] { left = true; });
  REQUIRE(nodes.reach([&left] { return left; }));
  const auto at = [&log](std::uint64_t offset) {
    return std::ranges::find(log, offset, [](const auto& write) { return write.offset; }) - log.begin();
  };
  CHECK(at(0x8080) < at(0x8090)); // the hello, from its first word on
  CHECK(at(0x8090) < at(0x100));  // the doorbell
  CHECK(at(0x100) < at(0x10));    // the window's limit
  CHECK(at(0x10) < at(0x0));      // the link
  CHECK(at(0x0) < static_cast<std::ptrdiff_t>(log.size()));
  CHECK(nodes.pair.b.read(Peer::aperture_region, 0, 8) == UINT64_MAX);
}
