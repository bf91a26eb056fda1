// Functions of one IOMMU group that work at the same time: they wait for each other, and nobody is given up for that.
#include "catch.hpp"
#include "scripted_system.hpp"

using namespace testing;

namespace {

constexpr std::uint64_t page = 4096, gib = 1ULL << 30;

/// A file of 2.5 GiB, without memory: nobody touches it.
Fd large_file() { return make_memfd("large", 5 * gib / 2).value(); }

struct Bed : KernelBed {
  std::shared_ptr<kernel::Device> device;
  Fd file = make_memfd("window", page).value();

  explicit Bed(std::chrono::milliseconds timeout = std::chrono::seconds(4)) {
    device = open({.bdf = {0, 6, 0, 0}, .timeout = timeout}).value();
  }
  ~Bed() { close(device); }
};

} // namespace

TEST_CASE("a function whose companion maps very much memory is not given up, and may ask for its registers meanwhile") {
  constexpr std::chrono::milliseconds timeout{1500}, each{700}; // three pieces
  Bed bed(timeout);
  const auto second = bed.open({.bdf = {0, 6, 0, 1}, .timeout = timeout}).value();
  unsigned lost = 0;
  second->on_lost([&lost] { ++lost; });
  bed.system->slow("map_dma", each);
  std::optional<int> first, waited;
  bed.device->submit(window(large_file(), 0x100000000, 5 * gib / 2),
                     [&first](Reply reply) { first = reply ? 0 : reply.error(); });
  REQUIRE(bed.asked("map_dma 100000000+40000000 3 0"));
  CHECK(bed.number(*second, GetRegionInfo{0}) == 0);
  CHECK_FALSE(first); // it did not wait for the window
  second->submit(window(bed.file, 0x1000, page), [&waited](Reply reply) { waited = reply ? 0 : reply.error(); });
  CHECK(bed.run_until([&waited] { return waited.has_value(); }));
  CHECK(waited == 0);
  CHECK(first == 0);
  CHECK(lost == 0);
  bed.close(second);
}

TEST_CASE("a function that joins its group waits for a companion that maps very much memory") {
  constexpr std::chrono::milliseconds timeout{1500}, each{700}; // three pieces
  Bed bed(timeout);
  bed.system->slow("map_dma", each);
  bed.device->submit(window(large_file(), 0x100000000, 5 * gib / 2), [](const Reply&) {});
  REQUIRE(bed.asked("map_dma 100000000+40000000 3 0"));
  const auto second = bed.open({.bdf = {0, 6, 0, 1}, .timeout = timeout});
  CHECK(second);
  if (second) bed.close(*second);
}

TEST_CASE("a function whose companion unmaps many windows comes between two of them") {
  Bed bed;
  const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value();
  for (const auto iova : {0x10000U, 0x20000U, 0x30000U})
    REQUIRE(bed.number(*bed.device, window(bed.file, iova, page)) == 0);
  bed.system->calls();
  bed.system->slow("unmap_dma", std::chrono::milliseconds(300));
  std::optional<Reply> unmapped;
  bed.device->submit(DmaUnmap{Iova{0}, 0, true}, [&unmapped](Reply reply) { unmapped = std::move(reply); });
  REQUIRE(bed.asked("unmap_dma 10000+1000"));
  CHECK(bed.number(*second, window(bed.file, 0x1000, page)) == 0);
  CHECK(bed.run_until([&unmapped] { return unmapped.has_value(); }));
  CHECK(std::get<Unmapped>(unmapped->value()).size == 3 * page);
  const auto calls = bed.system->calls();
  const auto mapped = std::ranges::find_if(calls, [](const auto& call) { return call.starts_with("map_dma 1000"); });
  CHECK(std::ranges::find(calls, "unmap_dma 30000+1000") > mapped); // the last one
  CHECK(bed.system->reachable().size() == 1);
  bed.close(second);
}
