// What can be made to go wrong in the simulated bridge.
#include "ntb_pair.hpp"

#include <cstring>

using namespace smartio;
using namespace smartio::testing;
namespace offset = ntb::register_offset;
using ntb::Faults;
using ntb::Passing;

namespace {

struct Open : NtbPair {
  Open() : NtbPair(GENERATE("gen4", "gen3")) { b.open_window(0, NtbHost::memory_at); }
  void inject(std::string_view line) {
    const auto faults = ntb::changed_by(bridge.faults(), line);
    REQUIRE(faults);
    bridge.set_faults(*faults);
  }
  std::uint64_t doorbells() { return b.reg(offset::interrupt_status, 4); }
  std::uint64_t memory() {
    std::uint64_t value = 0;
    std::memcpy(&value, b.memory().data(), sizeof value);
    return value;
  }
};

} // namespace

TEST_CASE("a link that is held down comes up again, with all registers or without the windows") {
  Open pair;
  pair.a.set_reg(offset::scratchpads, 5);
  pair.inject("link down");
  CHECK_FALSE(pair.a.link_up());
  CHECK(pair.a.read(2, 0, 8) == UINT64_MAX);
  pair.inject("link up");
  CHECK(pair.b.link_up());
  CHECK(pair.a.read(2, 0, 8) == 0);
  pair.inject("link down-losing-registers");
  pair.inject("link up");
  CHECK(pair.a.link_up());
  CHECK(pair.b.reg(offset::translation_base, 8) == 0);
  CHECK(pair.b.reg(offset::limit, 8) == 0);
  CHECK(pair.a.reg(offset::scratchpads) == 0);
  CHECK(pair.a.read(2, 0, 8) == UINT64_MAX);
}

TEST_CASE("doorbells are lost, or late") {
  Open pair;
  pair.inject("doorbells lose");
  pair.a.set_reg(offset::doorbells, 1);
  pair.inject("doorbells hold");
  pair.a.set_reg(offset::doorbells + 4, 1);
  CHECK(pair.doorbells() == 0);
  pair.inject("doorbells pass");
  CHECK(pair.doorbells() == 2);
  CHECK(pair.bridge.counters(Side::a).lost_doorbells == 1);
}

TEST_CASE("data is late, overtaken by its doorbell, in order nevertheless; or lost") {
  Open pair;
  pair.inject("writes hold");
  pair.a.write(2, 0, 8, 1);
  pair.a.write(2, 0, 8, 2);
  pair.a.set_reg(offset::doorbells, 1);
  CHECK(pair.doorbells() == 1);
  CHECK(pair.memory() == 0);
  pair.inject("writes pass");
  CHECK(pair.memory() == 2);
  pair.inject("writes lose");
  pair.a.write(2, 0, 8, 3);
  CHECK(pair.memory() == 2);
  CHECK(pair.bridge.counters(Side::a).dropped_writes == 1);
}

TEST_CASE("a write is torn: a doorbell and the memory show half of it, a read or the next write makes it whole") {
  Open pair;
  pair.inject("writes tear");
  pair.a.write(2, 0, 8, 0x1111111122222222);
  pair.a.set_reg(offset::doorbells, 1);
  CHECK(pair.doorbells() == 1);
  CHECK(pair.memory() == 0x22222222);
  SECTION("by a read") { CHECK(pair.a.read(2, 0, 8) == 0x1111111122222222); }
  SECTION("by the next write") {
    pair.a.write(2, 8, 8, 0x4444444433333333);
    CHECK(pair.memory() == 0x1111111122222222);
    pair.inject("writes pass");
    CHECK(pair.a.read(2, 8, 8) == 0x4444444433333333);
  }
  SECTION("by the fault's end") {
    pair.inject("writes pass");
    CHECK(pair.memory() == 0x1111111122222222);
  }
  SECTION("or never") {
    pair.inject("writes lose");
    CHECK(pair.memory() == 0x22222222);
    CHECK(pair.bridge.counters(Side::a).dropped_writes == 1);
    return;
  }
  CHECK(pair.memory() == 0x1111111122222222);
}

TEST_CASE("a write of one byte cannot be torn") {
  Open pair;
  pair.inject("writes tear");
  pair.a.write(2, 0, 1, 7);
  CHECK(pair.memory() == 7);
}

TEST_CASE("what is held when the link goes down never arrives") {
  Open pair;
  pair.inject("writes hold");
  pair.inject("doorbells hold");
  pair.a.write(2, 0, 8, 1);
  pair.a.set_reg(offset::doorbells, 1);
  pair.b.want_link(false);
  pair.b.want_link(true);
  pair.inject("writes pass");
  pair.inject("doorbells pass");
  CHECK(pair.memory() == 0);
  CHECK(pair.doorbells() == 0);
}

TEST_CASE("what is held is bounded") {
  Open pair;
  pair.inject("writes hold");
  for (int i = 0; i < 70000; ++i) pair.a.write(2, 0, 1, 1);
  CHECK(pair.bridge.counters(Side::a).dropped_writes == 70000 - 65536);
}

TEST_CASE("reads time out with ones") {
  Open pair;
  pair.inject("reads time-out");
  CHECK(pair.a.read(2, 0, 8) == UINT64_MAX);
  pair.inject("reads pass");
  CHECK(pair.a.read(2, 0, 8) == 0);
}

TEST_CASE("a translation base that is stuck keeps its value; all else takes") {
  Open pair;
  pair.inject("translation stuck");
  pair.b.set_reg(offset::translation_base, 0, 8);
  pair.b.set_reg(offset::scratchpads, 9);
  CHECK(pair.b.reg(offset::translation_base, 8) == NtbHost::memory_at);
  CHECK(pair.b.reg(offset::scratchpads) == 9);
  pair.inject("translation takes");
  pair.b.set_reg(offset::translation_base, 0, 8);
  CHECK(pair.b.reg(offset::translation_base, 8) == 0);
}

TEST_CASE("a line that is no fault is none") {
  for (const char* line : {"", "link", "link up ", "LINK UP", "doorbells", "reads lose", "links down"})
    CHECK_FALSE(ntb::changed_by(Faults{}, line));
}
