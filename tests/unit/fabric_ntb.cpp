// The drivers of non-transparent bridges, on the simulated one.
#include "ntb_ends.hpp"
#include "ntb_nodes.hpp"

#include <cstring>

using namespace smartio;
using namespace smartio::testing;

namespace {

constexpr std::uint64_t status = 0x40, disable = 0x48; ///< of interrupts
constexpr std::uint32_t doorbell = 0x100;              ///< the first of the peer's

/// What was written to BAR 0, as one window sees it: whether its translation was ever changed while it was open.
struct WindowLog {
  std::uint32_t base, limit;
  std::uint64_t closed; ///< the limit of a closed window: where its BAR begins
  bool open = false, torn = false;
  unsigned bases = 0, openings = 0;

  void read(const std::vector<WatchedDevice::Write>& writes) {
    bases = openings = 0;
    for (const auto& write : writes) {
      if (write.offset == limit) openings += (open = write.value != closed) ? 1 : 0;
      if (write.offset != base) continue;
      ++bases;
      torn = torn || open;
    }
  }
};

} // namespace

TEST_CASE("an adapter says what it is") {
  NtbPair ice_lake("gen4", false), sapphire_rapids("gen4-spr", false), granite_rapids("gen5", false),
      skylake("gen3", false);
  for (auto* pair : {&ice_lake, &sapphire_rapids, &granite_rapids, &skylake}) {
    const auto a = open_adapter(pair->a).value(), b = open_adapter(pair->b).value();
    CHECK(a->shape().upstream);
    CHECK_FALSE(b->shape().upstream);
    CHECK(a->shape().window_bytes == std::array{window, window});
  }
  CHECK(open_adapter(skylake.a).value()->shape().usable_doorbells == 0x7fffffff);
  CHECK(open_adapter(ice_lake.a).value()->shape().usable_doorbells == 0xffffffff);
}

TEST_CASE("the link comes up when both ends want it, and both are told") {
  Ends ends(any_chip());
  for (auto* end : {&ends.a, &ends.b}) {
    CHECK(end->signalled(end->link_vector()));
    const auto link = told<fabric::ntb::Link>(*end->adapter, &Adapter::read_link);
    CHECK(link.up);
    CHECK(link.speed == (ends.pair.bridge.chip().link_up & 0xfU));
    CHECK(link.width == 16);
  }
  REQUIRE(did(*ends.b.adapter, &Adapter::disable_link).has_value());
  CHECK(ends.a.signalled(ends.a.link_vector()));
  CHECK_FALSE(told<fabric::ntb::Link>(*ends.a.adapter, &Adapter::read_link).up);
}

TEST_CASE("the link is asked for with coherent accesses, whatever firmware left") {
  NtbPair pair("gen4", false);
  End end(pair.a);
  pair.a.set_reg(0, 0x2a8); // NTBCNTL: no snooping, in either direction and window
  REQUIRE(did(*end.adapter, &Adapter::enable_link).has_value());
  CHECK(pair.a.reg(0) == 0x154);
}

TEST_CASE("a doorbell that shares the link's vector is forgotten when the link is looked at") {
  Ends ends("gen3");
  auto& adapter = *ends.b.adapter;
  for (int i = 0; i < 2; ++i) {
    ends.b.signalled(31);
    ends.pair.a.write(0, 0x100 + 4 * 31, 4, 1);
    CHECK(ends.b.signalled(31));
    CHECK(told<fabric::ntb::Link>(adapter, &Adapter::read_link).up);
    CHECK(told<std::uint64_t>(adapter, &Adapter::read_doorbells) == 0);
  }
}

TEST_CASE("what others have left in a bridge is gone once it is started: windows, doorbells, events") {
  NtbPair pair(any_chip());
  pair.b.open_window(0, NtbHost::memory_at);
  pair.b.open_window(1, NtbHost::memory_at);
  pair.a.write(0, doorbell + 4 * 3, 4, 1);
  const auto watched = watch(pair.b);
  End end(pair.b);
  for (const std::uint32_t bar : {2U, 4U}) CHECK(pair.a.read(bar, 0, 8) == UINT64_MAX);
  CHECK(told<std::uint64_t>(*end.adapter, &Adapter::read_doorbells) == 0);
  REQUIRE(did(*end.adapter, &Adapter::enable_doorbells, std::uint64_t{0x8}).has_value());
  CHECK_FALSE(end.signalled(3));
  const auto first = std::ranges::find(watched->registers, disable, &WatchedDevice::Write::offset);
  REQUIRE(first != watched->registers.end());
  CHECK(first->value == 0x1ffffffff); // no doorbell signals while vectors change
}

TEST_CASE("doorbells are enabled and cleared without the link's event") {
  Ends ends(any_chip());
  const auto watched = watch(ends.pair.b);
  const End end(ends.pair.b);
  auto& adapter = *end.adapter;
  REQUIRE(did(adapter, &Adapter::clear_doorbells, UINT64_MAX).has_value());
  CHECK(watched->registers.back() == WatchedDevice::Write{status, adapter.shape().usable_doorbells});
  REQUIRE(did(adapter, &Adapter::enable_doorbells, std::uint64_t{0x8}).has_value());
  const std::uint64_t link = adapter.shape().generation == 3 ? 3ULL << 31 : 1ULL << 32;
  CHECK(watched->registers.back() == WatchedDevice::Write{disable, 0x1ffffffff & ~(link | 0x8)});
}

TEST_CASE("a window is closed until it is opened, and again afterwards") {
  Ends ends(any_chip());
  for (const unsigned index : {0U, 1U}) {
    const std::uint32_t bar = 2 + 2 * index;
    CHECK(ends.pair.a.read(bar, 0, 8) == UINT64_MAX);
    REQUIRE(did(*ends.b.adapter, &Adapter::open_window, index, memory, window).has_value());
    ends.pair.a.write(bar, window - 8, 8, 0x1234 + index);
    std::uint64_t seen = 0;
    std::memcpy(&seen, ends.pair.b.memory().data() + window - 8, sizeof seen);
    CHECK(seen == 0x1234 + index);
    REQUIRE(did(*ends.b.adapter, &Adapter::open_window, index, memory, std::uint64_t{0x1000}).has_value());
    CHECK(ends.pair.a.read(bar, 0xff8, 8) == 0);
    CHECK(ends.pair.a.read(bar, 0x1000, 8) == UINT64_MAX);
    REQUIRE(did(*ends.b.adapter, &Adapter::close_window, index).has_value());
    CHECK(ends.pair.a.read(bar, 0, 8) == UINT64_MAX);
  }
}

TEST_CASE("what cannot be a window is refused") {
  Ends ends(any_chip());
  const bool pages = ends.b.adapter->shape().alignment == 4096;
  const auto opened = [&ends](unsigned index, std::uint64_t at, std::uint64_t bytes) {
    const auto done = did(*ends.b.adapter, &Adapter::open_window, index, Iova{at}, bytes);
    if (!done) CHECK(done.error().code == Errc::bad_request); // before the bridge is asked
    return done.has_value();
  };
  CHECK(opened(0, NtbHost::memory_at + 0x1000, 0x1000) == pages);
  CHECK_FALSE(opened(0, NtbHost::memory_at + 0x800, 0x1000));
  CHECK_FALSE(opened(0, NtbHost::memory_at, 0));
  CHECK_FALSE(opened(0, NtbHost::memory_at, 0x800));
  CHECK_FALSE(opened(0, NtbHost::memory_at, 2 * window));
  CHECK_FALSE(opened(2, NtbHost::memory_at, window));
}

TEST_CASE("a translation that does not take is an error") {
  Ends ends(any_chip());
  ends.pair.bridge.set_faults({.translation_stuck = true});
  const auto done = did(*ends.b.adapter, &Adapter::open_window, 0U, memory, window);
  REQUIRE_FALSE(done.has_value());
  CHECK(done.error().code == make_error_code(Errc::wrong_state));
  CHECK(ends.pair.a.read(2, 0, 8) == UINT64_MAX);
}

TEST_CASE("doorbells signal while they are enabled, and stay until they are cleared") {
  Ends ends(any_chip());
  auto &from = *ends.a.adapter, &to = *ends.b.adapter;
  REQUIRE(did(to, &Adapter::enable_doorbells, std::uint64_t{0x8}).has_value());
  REQUIRE(did(from, &Adapter::ring, 3U).has_value());
  REQUIRE(did(from, &Adapter::ring, 4U).has_value());
  CHECK(ends.b.signalled(3));
  CHECK_FALSE(ends.b.signalled(4));
  CHECK(told<std::uint64_t>(to, &Adapter::read_doorbells) == 0x18);
  REQUIRE(did(to, &Adapter::clear_doorbells, std::uint64_t{0x8}).has_value());
  CHECK(told<std::uint64_t>(to, &Adapter::read_doorbells) == 0x10);
  CHECK_FALSE(did(from, &Adapter::ring, 32U).has_value());
  CHECK(did(from, &Adapter::ring, 31U).has_value() == (from.shape().generation == 4)); // the link's on generation 3
}

TEST_CASE("scratchpads carry words to the peer") {
  Ends ends(any_chip());
  for (unsigned i = 0; i < 16; ++i) {
    REQUIRE(did(*ends.a.adapter, &Adapter::write_peer_scratchpad, i, 0xabc0U + i).has_value());
    CHECK(told<std::uint32_t>(*ends.b.adapter, &Adapter::read_scratchpad, i) == 0xabc0 + i);
  }
  CHECK_FALSE(did(*ends.a.adapter, &Adapter::write_peer_scratchpad, 16U, 0U).has_value());
}

TEST_CASE("recovery brings back windows, doorbells and the link after they were lost") {
  const bool reset = GENERATE(true, false);
  Ends ends(any_chip());
  auto& adapter = *ends.b.adapter;
  REQUIRE(did(adapter, &Adapter::open_window, 1U, memory, window).has_value());
  REQUIRE(did(adapter, &Adapter::enable_doorbells, std::uint64_t{0x8}).has_value());
  if (reset) {
    const std::uint64_t control = adapter.shape().generation == 3 ? 0x98 : 0x48; // Initiate Function Level Reset
    ends.pair.b.write(vfio::config_region, control, 2, 0x8000);
  } else {
    ends.pair.bridge.set_faults({.link_down = true, .loses_registers = true});
    ends.pair.bridge.set_faults({});
  }
  CHECK(ends.pair.a.read(4, 0, 8) == UINT64_MAX);
  REQUIRE(did(adapter, &Adapter::recover).has_value());
  CHECK(ends.pair.a.read(4, 0, 8) == 0);
  REQUIRE(did(*ends.a.adapter, &Adapter::ring, 3U).has_value());
  CHECK(ends.b.signalled(3));
}

TEST_CASE("a device that is gone is ENODEV; one that is no bridge is refused") {
  Ends ends(any_chip());
  ends.pair.bridge.detach(Side::a);
  const auto done = did(*ends.a.adapter, &Adapter::enable_link);
  REQUIRE_FALSE(done.has_value());
  CHECK(done.error().code == std::errc::no_such_device);

  struct Stranger final : vfio::Device {
    void submit(vfio::Request, vfio::Completion done) override { done(vfio::Data{Bytes(4)}); }
    void on_lost(std::move_only_function<void()>) override {}
  };
  std::optional<Error> refused;
  Adapter::open(std::make_shared<Stranger>(), [&refused](auto opened) { refused = opened.error(); });
  REQUIRE(refused);
  CHECK(refused->code == make_error_code(Errc::bad_request));
}

TEST_CASE("a window's translation is changed only while the window is closed") {
  NtbPair pair(any_chip(), false);
  const auto watched = watch(pair.a);
  End end(pair.a);
  for (const unsigned index : {0U, 1U}) {
    WindowLog log{0x10 + 0x10 * index, 0x18 + 0x10 * index, index == 0 ? NtbHost::bar2_at : NtbHost::bar4_at};
    struct Row {
      const char* what;
      std::function<Result<void>()> change;
      unsigned openings; ///< afterwards it is open, or not
    };
    const Row rows[]{
        {"open", [&] { return did(*end.adapter, &Adapter::open_window, index, memory, window); }, 1},
        {"aim elsewhere", [&] { return did(*end.adapter, &Adapter::open_window, index, Iova{0}, window); }, 1},
        {"recover", [&] { return did(*end.adapter, &Adapter::recover); }, 1},
        {"close", [&] { return did(*end.adapter, &Adapter::close_window, index); }, 0},
        {"recover what is closed", [&] { return did(*end.adapter, &Adapter::recover); }, 0},
    };
    for (const auto& row : rows) {
      INFO(row.what << " " << index);
      watched->registers.clear();
      REQUIRE(row.change().has_value());
      log.read(watched->registers);
      CHECK_FALSE(log.torn);
      CHECK(log.bases > 0);
      CHECK(log.openings == row.openings);
      CHECK(log.open == (row.openings == 1));
    }
  }
}

TEST_CASE("generation 3 has the limit of the peer's side before a window opens") {
  NtbPair pair("gen3", false);
  const auto watched = watch(pair.a);
  End end(pair.a);
  watched->registers.clear();
  REQUIRE(did(*end.adapter, &Adapter::open_window, 0U, memory, window).has_value());
  const auto& writes = watched->registers;
  const auto secondary = std::ranges::find(writes, 0x4018U, &WatchedDevice::Write::offset);
  const auto opened = std::ranges::find(writes, WatchedDevice::Write{0x18, NtbHost::bar2_at + window});
  REQUIRE(secondary != writes.end());
  REQUIRE(opened != writes.end());
  CHECK(secondary < opened);
}

TEST_CASE("what a bridge does not have is refused, and the last of what it has is not") {
  Ends ends(any_chip());
  auto& adapter = *ends.a.adapter;
  CHECK(did(adapter, &Adapter::write_peer_scratchpad, 15U, 1U).has_value());
  CHECK_FALSE(did(adapter, &Adapter::write_peer_scratchpad, 16U, 1U).has_value());
  CHECK_FALSE(did(adapter, &Adapter::write_peer_scratchpad, UINT32_MAX, 1U).has_value());
  std::optional<Result<std::uint32_t>> word;
  for (const unsigned index : {15U, 16U, UINT32_MAX}) {
    adapter.read_scratchpad(index, [&word](auto told) { word = std::move(told); });
    REQUIRE(word.has_value());
    CHECK(word->has_value() == (index == 15));
  }
  CHECK_FALSE(did(adapter, &Adapter::close_window, 2U).has_value());
  CHECK_FALSE(did(adapter, &Adapter::ring, UINT32_MAX).has_value());
  for (const unsigned count : {0U, 32U, 34U}) {
    std::vector<Fd> events;
    while (events.size() < count) events.push_back(make_eventfd().value());
    CHECK_FALSE(did(adapter, &Adapter::start, std::move(events)).has_value());
  }
  REQUIRE(did(adapter, &Adapter::enable_doorbells, UINT64_MAX).has_value()); // no more than there are
  const auto usable = adapter.shape().usable_doorbells;
  CHECK((ends.pair.a.reg(0x48, 8) & usable) == 0);
}
