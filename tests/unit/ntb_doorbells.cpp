// The simulated bridge's doorbells, interrupts and scratchpads.
#include "ntb_pair.hpp"

using namespace smartio;
using namespace smartio::testing;
namespace offset = ntb::register_offset;

namespace {

struct Ready : NtbPair {
  explicit Ready(const char* chip = "gen4") : NtbPair(chip) {
    for (auto* host : {&a, &b}) {
      if (bridge.chip().generation == 4) host->set_reg(offset::slot_status, 0x100, 2);
      host->set_reg(offset::interrupt_status, std::uint64_t{1} << 32, 8);
      for (unsigned i = 0; i < 33; ++i) host->set_reg(bridge.chip().vector_map + i, i, 1);
    }
  }
  void ring(NtbHost& from, unsigned bit) { from.set_reg(offset::doorbells + 4 * bit, 1); }
};

} // namespace

TEST_CASE("a doorbell sets its bit at the other end, and there only, until it is cleared") {
  Ready pair(any_chip());
  for (auto [from, to] : {std::pair(&pair.a, &pair.b), std::pair(&pair.b, &pair.a)}) {
    for (const unsigned bit : {0U, 1U, 31U}) {
      pair.ring(*from, bit);
      CHECK(to->reg(offset::interrupt_status, 8) == std::uint64_t{1} << bit);
      CHECK(from->reg(offset::interrupt_status, 8) == 0);
      to->set_reg(offset::interrupt_status, 0, 8);
      CHECK(to->reg(offset::interrupt_status, 8) == std::uint64_t{1} << bit);
      to->set_reg(offset::interrupt_status, std::uint64_t{1} << bit, 8);
      CHECK(to->reg(offset::interrupt_status, 8) == 0);
    }
  }
}

TEST_CASE("only bit 0 rings a doorbell, and what is read of one is 0") {
  Ready pair(any_chip());
  pair.a.set_reg(offset::doorbells + 4, 0xfffffffe);
  CHECK(pair.b.reg(offset::interrupt_status, 8) == 0);
  pair.a.set_reg(offset::doorbells + 4, 0x0000000300000001, 8); // two of them
  CHECK(pair.b.reg(offset::interrupt_status, 8) == 0x6);
  CHECK(pair.a.reg(offset::doorbells + 4) == 0);
}

TEST_CASE("each doorbell and the link's event fire the vector they are mapped to") {
  Ready pair(any_chip());
  const Fd five = pair.b.assign_vector(5), thirty = pair.b.assign_vector(30), link = pair.b.assign_vector(32);
  pair.ring(pair.a, 5);
  CHECK(drain_eventfd(five.get()) == 1);
  pair.b.set_reg(pair.bridge.chip().vector_map + 6, 30, 1);
  pair.ring(pair.a, 6);
  CHECK(drain_eventfd(thirty.get()) == 1);
  CHECK(drain_eventfd(five.get()) == 0);
  pair.a.want_link(false);
  CHECK(drain_eventfd(link.get()) == 1);
  CHECK(pair.bridge.counters(Side::b).interrupts == 3);
}

TEST_CASE("a doorbell that is disabled fires once it is enabled; one that is cleared before does not") {
  Ready pair(any_chip());
  const Fd three = pair.b.assign_vector(3), four = pair.b.assign_vector(4);
  pair.b.set_reg(offset::interrupt_disable, 0x18, 8);
  pair.ring(pair.a, 3);
  pair.ring(pair.a, 4);
  CHECK(pair.b.reg(offset::interrupt_status, 8) == 0x18);
  CHECK(drain_eventfd(three.get()) == 0);
  pair.b.set_reg(offset::interrupt_status, 0x10, 8);
  pair.b.set_reg(offset::interrupt_disable, 0, 8);
  CHECK(drain_eventfd(three.get()) == 1);
  CHECK(drain_eventfd(four.get()) == 0);
}

TEST_CASE("a doorbell rung again before it is cleared is one interrupt, after that another") {
  Ready pair(any_chip());
  const Fd three = pair.b.assign_vector(3);
  pair.ring(pair.a, 3);
  pair.ring(pair.a, 3);
  CHECK(drain_eventfd(three.get()) == 1);
  pair.b.set_reg(offset::interrupt_status, 0x8, 8);
  pair.ring(pair.a, 3);
  CHECK(drain_eventfd(three.get()) == 1);
}

TEST_CASE("without bus master no interrupt is sent, and none is lost") {
  Ready pair(any_chip());
  const Fd three = pair.b.assign_vector(3);
  pair.b.set_bus_master(false);
  pair.ring(pair.a, 3);
  CHECK(drain_eventfd(three.get()) == 0);
  pair.b.set_bus_master(true);
  CHECK(drain_eventfd(three.get()) == 1);
}

TEST_CASE("an event from before MSI-X was enabled fires when it is") {
  Ready pair(any_chip());
  pair.ring(pair.a, 3);
  const Fd three = pair.b.assign_vector(3);
  CHECK(drain_eventfd(three.get()) == 1);
}

TEST_CASE("a doorbell without a link is lost, and counted") {
  Ready pair(any_chip());
  pair.b.want_link(false);
  pair.b.set_reg(offset::slot_status, 0x100, 2);
  pair.ring(pair.a, 3);
  CHECK((pair.b.reg(offset::interrupt_status, 8) & 0xffffffff) == 0);
  CHECK(pair.bridge.counters(Side::a).lost_doorbells == 1);
  pair.bridge.detach(Side::b);
  pair.ring(pair.a, 3);
  CHECK(pair.bridge.counters(Side::a).lost_doorbells == 2);
}

TEST_CASE("scratchpads are read and written from both ends, in any width") {
  Ready pair(any_chip());
  const auto peer = pair.bridge.chip().peer_scratchpads;
  for (auto [here, there] : {std::pair(&pair.a, &pair.b), std::pair(&pair.b, &pair.a)}) {
    for (unsigned i = 0; i < 16; ++i) here->set_reg(peer + 4 * i, 0x01010101 * (i + 1));
    for (unsigned i = 0; i < 16; ++i) {
      CHECK(there->reg(offset::scratchpads + 4 * i) == 0x01010101 * (i + 1));
      CHECK(here->reg(peer + 4 * i) == 0x01010101 * (i + 1));
      CHECK(here->reg(offset::scratchpads + 4 * i) != here->reg(peer + 4 * i));
    }
    there->set_reg(offset::scratchpads, 0x1122334455667788, 8);
    CHECK(here->reg(peer, 8) == 0x1122334455667788);
    here->set_reg(peer + 3, 0xaa, 1);
    CHECK(there->reg(offset::scratchpads) == 0xaa667788);
    for (unsigned i = 0; i < 16; ++i) there->set_reg(offset::scratchpads + 4 * i, 0xf0000000 + i);
  }
}

TEST_CASE("without a link the other end's scratchpads read as ones and keep their values") {
  Ready pair(any_chip());
  const auto peer = pair.bridge.chip().peer_scratchpads;
  pair.a.set_reg(peer, 1);
  pair.a.want_link(false);
  pair.a.set_reg(peer, 2);
  CHECK(pair.a.reg(peer) == 0xffffffff);
  CHECK(pair.b.reg(offset::scratchpads) == 1);
}
