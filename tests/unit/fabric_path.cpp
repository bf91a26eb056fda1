// What every path keeps, whatever carries it: of the simulated bridge's models and of the one made of memory, with
// which others test.
#include "memory_path.hpp"
#include "ntb_nodes.hpp"

#include <set>

using namespace smartio;
using namespace smartio::testing;
using fabric::Path;

namespace {

constexpr std::uint64_t page = page_size;
static_assert(NtbHost::window_bytes == MemoryPath::window_bytes);

/// Both ends of a path, up.
struct TwoEnds {
  TwoEnds() {
    const auto* kind = GENERATE("memory", "gen4", "gen4-spr", "gen5", "gen3");
    INFO(kind);
    if (std::string_view(kind) == "memory") {
      memory.emplace(io);
      a = memory->a;
      b = memory->b;
    } else {
      bridge = std::make_unique<Nodes>(kind);
      REQUIRE(bridge->both_up());
      a = bridge->a.peer;
      b = bridge->b.peer;
    }
  }
  bool reach(const std::function<bool()>& condition) {
    if (bridge) return bridge->reach(condition);
    io.restart();
    io.poll();
    return condition();
  }
  /// What `end` writes through its aperture does not arrive by itself.
  void hold_writes_of_a() const {
    if (bridge) bridge->pair.bridge.set_faults({.writes = sim::ntb::Passing::held});
    if (memory) memory->a->hold_writes();
  }
  void go_down() const {
    if (bridge) bridge->pair.bridge.set_faults({.link_down = true});
    if (memory) memory->a->go_down("the test says so");
  }

  boost::asio::io_context io;
  std::optional<MemoryPaths> memory;
  std::unique_ptr<Nodes> bridge;
  std::shared_ptr<Path> a, b;
};

std::uint64_t expose(Path& path, const Fd& fd, std::uint64_t bytes, Access access = Access::read_write) {
  const auto offset = path.reserve(bytes).value();
  bool mapped = false;
  path.device()->submit(vfio::DmaMap{path.inbound(offset), bytes, access, fd.duplicate().value(), 0},
                        [&mapped](const vfio::Reply& reply) { mapped = reply.has_value(); });
  REQUIRE(mapped);
  return offset;
}

} // namespace

TEST_CASE("the ends of a path know each other, and name it by the same two lives") {
  const TwoEnds ends;
  CHECK(ends.a->state().up);
  CHECK(ends.a->state().node == NodeId{8});
  CHECK(ends.b->state().node == NodeId{4});
  CHECK(ends.a->state().aperture_bytes == NtbHost::window_bytes);
  CHECK(ends.a->lives().own == ends.b->lives().peer);
  CHECK(ends.a->lives().peer == ends.b->lives().own);
  CHECK(ends.a->lives() != ends.b->lives());
}

TEST_CASE("what is mapped at an offset of the window is reached at that offset of the aperture, until it is unmapped") {
  const TwoEnds ends;
  const auto fd = make_memfd("memory", 2 * page).value();
  const auto seen = Mapping::map(fd.get(), 0, 2 * page).value();
  const auto at = expose(*ends.b, fd, 2 * page);
  CHECK(ends.b->used_bytes() == 2 * page);
  CHECK(ends.a->used_bytes() == 0);
  write_through(*ends.a, at + page + 8, 0x11);
  CHECK(seen.bytes()[page + 8] == std::byte{0x11});
  CHECK(read_through(*ends.a, at + page + 8) == 0x11);

  bool unmapped = false;
  ends.b->device()->submit(vfio::DmaUnmap{ends.b->inbound(at), 2 * page},
                           [&unmapped](const vfio::Reply& reply) { unmapped = reply.has_value(); });
  REQUIRE(unmapped);
  write_through(*ends.a, at + page + 8, 0x22);
  CHECK(seen.bytes()[page + 8] == std::byte{0x11});
  ends.b->release(at);
  CHECK(ends.b->used_bytes() == 0);
}

TEST_CASE("what is mapped to be read is not written") {
  const TwoEnds ends;
  const auto fd = make_memfd("memory", page).value();
  const auto at = expose(*ends.b, fd, page, Access::read);
  CHECK(read_through(*ends.a, at) == 0);
  write_through(*ends.a, at, 0x11);
  CHECK(Mapping::map(fd.get(), 0, page).value().bytes()[0] == std::byte{0});
}

TEST_CASE("a window that is full, or asked for too much or nothing, has no room") {
  const TwoEnds ends;
  auto& path = *ends.a;
  for (const auto bytes : {std::uint64_t{0}, UINT64_MAX, NtbHost::window_bytes + 1}) CHECK_FALSE(path.reserve(bytes));
  CHECK(path.used_bytes() == 0);
  while (path.reserve(1)) continue;
  CHECK(path.used_bytes() % page == 0);
  CHECK(path.used_bytes() > NtbHost::window_bytes / 2);
}

TEST_CASE("room that is released is used again, and released once only") {
  const TwoEnds ends;
  auto& path = *ends.a;
  constexpr std::uint64_t most = NtbHost::window_bytes - page;
  for (int i = 0; i < 2; ++i) {
    const auto offset = path.reserve(most);
    REQUIRE(offset.has_value());
    for (const auto at : {*offset, *offset, std::uint64_t{0}}) path.release(at);
    CHECK(path.used_bytes() == 0);
  }
  const auto one = path.reserve(page), other = path.reserve(page);
  for (int i = 0; i < 2; ++i) path.release(*one);
  CHECK(path.used_bytes() == page);
  CHECK(path.reserve(page) != other);
}

TEST_CASE("what was written through the aperture has arrived once it is flushed") {
  const TwoEnds ends;
  const auto fd = make_memfd("memory", page).value();
  const auto seen = Mapping::map(fd.get(), 0, page).value();
  const auto at = expose(*ends.b, fd, page);
  ends.hold_writes_of_a();
  write_through(*ends.a, at, 0x11);
  CHECK(seen.bytes()[0] == std::byte{0});
  bool flushed = false;
  ends.a->flush([&flushed](const Result<void>& done) { flushed = done.has_value(); });
  CHECK(flushed);
  CHECK(seen.bytes()[0] == std::byte{0x11});
}

TEST_CASE("a doorbell reaches who claimed it at the other end, again after each ring, until it is released") {
  TwoEnds ends;
  int rung = 0, others = 0;
  const auto other = ends.a->claim_doorbell([&others] { ++others; });
  const auto bit = ends.a->claim_doorbell([&rung] { ++rung; });
  REQUIRE((bit && other));
  const auto ring = [&ends](unsigned which) {
    std::optional<bool> rang;
    ends.b->ring(which, [&rang](const Result<void>& done) { rang = done.has_value(); });
    return rang;
  };
  for (int i = 1; i <= 3; ++i) {
    CHECK(ring(*bit) == true);
    CHECK(rung == i - 1); // from the event loop
    CHECK(ends.reach([&] { return rung == i; }));
  }
  for (const auto none : {64U, 254U, 255U, UINT32_MAX}) CHECK(ring(none) == false);
  ends.a->release_doorbell(*bit);
  CHECK(ring(*bit) == true);
  CHECK(ring(*other) == true);
  CHECK(ends.reach([&] { return others == 1; }));
  CHECK(rung == 3);
}

TEST_CASE("each doorbell is claimed once, fits a message's number, and is free again when it is released") {
  const TwoEnds ends;
  std::set<unsigned> bits;
  while (const auto bit = ends.a->claim_doorbell([] {})) {
    CHECK(*bit < 255);
    REQUIRE(bits.insert(*bit).second);
  }
  REQUIRE_FALSE(bits.empty());
  ends.a->release_doorbell(*bits.begin());
  CHECK(ends.a->claim_doorbell([] {}) == *bits.begin());
}

TEST_CASE("a path that goes down says why, and keeps what is reserved and claimed") {
  TwoEnds ends;
  const auto at = ends.a->reserve(page);
  const auto bit = ends.a->claim_doorbell([] {});
  ends.go_down();
  REQUIRE(ends.reach([&ends] { return !ends.a->state().up && !ends.b->state().up; }));
  CHECK_FALSE(ends.a->state().reason.empty());
  CHECK(ends.a->state().node == NodeId{8});
  CHECK(ends.a->state().aperture_bytes == NtbHost::window_bytes);
  CHECK(ends.a->used_bytes() == page);
  CHECK(ends.a->claim_doorbell([] {}) != bit);
  ends.a->release(*at);
  CHECK(ends.a->used_bytes() == 0);
}

TEST_CASE("an end that is closed is not reached any more, and the other sees it go") {
  TwoEnds ends;
  const auto fd = make_memfd("memory", page).value();
  const auto at = expose(*ends.b, fd, page);
  bool closed = false;
  ends.b->close([&closed] { closed = true; });
  REQUIRE(ends.reach([&] { return closed && !ends.a->state().up; }));
  CHECK_FALSE(ends.a->state().reason.empty());
  write_through(*ends.a, at, 0x11);
  CHECK(Mapping::map(fd.get(), 0, page).value().bytes()[0] == std::byte{0});
  ends.b->release(at);
  CHECK(ends.b->used_bytes() == 0);
}
