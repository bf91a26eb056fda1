// A device as its user sees it: registers, reset, and what happens when the kernel does not come back.
#include "catch.hpp"
#include "checks.hpp"
#include "scripted_system.hpp"

using namespace testing;
using kernel::Interface;
using namespace std::chrono_literals;
using Strings = std::vector<std::string>;

namespace {

constexpr std::uint64_t page = 4096;

kernel::Options impatient() { return {.bdf = {0, 6, 0, 0}, .timeout = 50ms}; }

RegionInfo region(KernelBed& bed, kernel::Device& device, std::uint32_t index) {
  return std::get<RegionInfo>(bed.ask(device, GetRegionInfo{index}).value());
}

} // namespace

TEST_CASE("pages with the MSI-X table or its pending bits are never mapped") {
  KernelBed bed;
  const auto device = bed.open().value();
  CHECK(region(bed, *device, 0).areas == std::vector<RegionArea>{{0, 2 * page}}); // of four
  bed.close(device);
  bed.system->put(0x44, {0x03, 0x10, 0, 0, 0x03, 0x18, 0, 0}); // in a BAR that is not there
  const auto other = bed.open().value();
  CHECK(region(bed, *other, 0).areas == std::vector<RegionArea>{{0, 4 * page}});
  bed.close(other);
}

TEST_CASE("every page with a byte of the MSI-X table or its pending bits is hidden, and no other") {
  struct Row {
    unsigned vectors, table, pending; ///< of BAR 0, which has 16 pages
    std::vector<RegionArea> areas;
  };
  constexpr std::uint64_t all = 16 * page;
  const Row rows[]{
      {1, 0x0000, 0xf000, {{page, 14 * page}}},
      {1, 0x0ff0, 0xf000, {{page, 14 * page}}},                  // the last bytes of a page
      {1, 0x0ff8, 0xf000, {{2 * page, 13 * page}}},              // across a border
      {2, 0x0ff0, 0xf000, {{2 * page, 13 * page}}},              // one entry on each side
      {256, 0x1000, 0xf000, {{0, page}, {2 * page, 13 * page}}}, // a page, exactly
      {257, 0x1000, 0xf000, {{0, page}, {3 * page, 12 * page}}},
      {2048, 0x1000, 0xf000, {{0, page}, {9 * page, 6 * page}}},
      {2048, 0x0008, 0xf000, {{9 * page, 6 * page}}},
      {2048, 0x8000, 0x0000, {{page, 7 * page}}},     // to the end of the BAR
      {64, 0xf000, 0x0ff8, {{page, 14 * page}}},      // pending bits: 8 bytes
      {65, 0xf000, 0x0ff8, {{2 * page, 13 * page}}},  // 16
      {2048, 0x1000, 0x0f00, {{9 * page, 7 * page}}}, // 256 bytes, next to the table
      {1, 0x3000, 0x3800, {{0, 3 * page}, {4 * page, 12 * page}}},
  };
  for (const auto& row : rows) {
    INFO(row.vectors << " vectors at " << row.table << ", pending bits at " << row.pending);
    KernelBed bed;
    bed.system->bar0 = all;
    const auto size = row.vectors - 1;
    bed.system->put(0x42, {static_cast<int>(size & 0xff), static_cast<int>(size >> 8),
                           static_cast<int>(row.table & 0xff), static_cast<int>(row.table >> 8), 0, 0,
                           static_cast<int>(row.pending & 0xff), static_cast<int>(row.pending >> 8), 0, 0});
    const auto device = bed.open().value();
    CHECK(region(bed, *device, 0).areas == row.areas);
    bed.close(device);
  }
}

TEST_CASE("a region that is all MSI-X table cannot be mapped") {
  KernelBed bed;
  bed.system->put(0x42, {0xff, 0x03, 0, 0, 0, 0, 0, 0, 0, 0}); // 1024 vectors are four pages
  const auto device = bed.open().value();
  CHECK(region(bed, *device, 0).areas.empty());
  CHECK((region(bed, *device, 0).flags & region_flag_mmap) == 0);
  CHECK_FALSE(region(bed, *device, 0).fd);
  bed.close(device);
}

TEST_CASE(
    "a region that can be mapped comes with the device's descriptor, or with iommufd as a dma-buf where that maps") {
  struct Row {
    bool iommufd, maps;
    std::size_t descriptors; ///< kinds that are open: the device's and its domain's, and the dma-buf
  };
  for (const auto& row : {Row{false, false, 3}, Row{true, false, 2}, Row{true, true, 3}}) {
    KernelBed bed;
    bed.system->cdev = bed.system->dma_buf = row.iommufd;
    bed.system->dma_buf_maps = row.maps;
    const auto device = bed.open().value();
    const auto info = region(bed, *device, 0);
    CHECK(info.fd);
    CHECK(info.fd_offset == 0);
    CHECK(bed.system->open_descriptors() == row.descriptors);
    CHECK(bed.system->mappings() == 0);
    bed.close(device);
  }
}

TEST_CASE("a client that holds a region's descriptor keeps the device open") {
  KernelBed bed;
  const auto device = bed.open().value();
  auto info = region(bed, *device, 0);
  bed.close(device);
  CHECK(bed.system->closed() == Strings{"/dev/vfio/12", "/dev/vfio/vfio"});
  info.fd.reset();
  CHECK(bed.system->closed() == Strings{"device"});
}

TEST_CASE("closing makes a device quiet that others still hold open: no DMA, no interrupts, no windows") {
  KernelBed bed;
  const auto device = bed.open().value();
  const auto file = make_memfd("window", page).value();
  REQUIRE(bed.number(*device, window(file, 0x1000, page)) == 0);
  SetIrqs irqs{irq_data_eventfd | irq_action_trigger, intx, 0, 1, {}, {}};
  irqs.eventfds.push_back(make_eventfd().value());
  REQUIRE(bed.number(*device, std::move(irqs)) == 0);
  bed.system->calls();
  bed.close(device);
  CHECK(bed.system->calls() == Strings{"config", "set_irqs 21 0 0+0", "unmap_dma 1000+1000", "munmap 1000"});
}

TEST_CASE("a read of any size is answered whole") {
  KernelBed bed;
  const auto device = bed.open().value();
  const auto config = std::get<Data>(bed.ask(*device, RegionRead{config_region, 0, 256}).value());
  CHECK(config.bytes == bed.system->config);
  CHECK(std::get<Data>(bed.ask(*device, RegionRead{0, 8, 0}).value()).bytes.empty());
  bed.close(device);
}

TEST_CASE("a device that is gone reads as ones and swallows writes") {
  KernelBed bed;
  const auto device = bed.open().value();
  for (const int number : {EIO, ENODEV, ENXIO}) {
    bed.system->fail("read", number);
    bed.system->fail("register", number);
    const auto data = std::get<Data>(bed.ask(*device, RegionRead{0, 0, 4}).value());
    CHECK(data.bytes == std::vector<std::byte>(4, std::byte{0xff}));
    CHECK(bed.number(*device, RegionWrite{0, 0, std::vector<std::byte>(4)}) == 0);
  }
  bed.system->fail("read", EPERM);
  CHECK(bed.number(*device, RegionRead{0, 0, 4}) == EPERM);
  bed.close(device);
}

TEST_CASE("an access outside its region never reaches the kernel") {
  KernelBed bed;
  const auto device = bed.open().value();
  bed.system->calls();
  struct Row {
    std::uint32_t index;
    std::uint64_t offset;
    std::uint32_t count;
  };
  for (const auto& [index, offset, count] :
       {Row{0, 4 * page, 4}, Row{0, 4 * page - 2, 4}, Row{0, UINT64_MAX, 4}, Row{0, 1ULL << 40, 4}, Row{2, 0, 1},
        Row{9, 0, 1}, Row{UINT32_MAX, 0, 1}}) {
    CHECK(bed.number(*device, RegionRead{index, offset, count}) == EINVAL);
    CHECK(bed.number(*device, RegionWrite{index, offset, std::vector<std::byte>(count)}) == EINVAL);
  }
  CHECK(bed.number(*device, RegionWrite{1, 0, std::vector<std::byte>(4)}) == EACCES);
  CHECK(bed.system->calls().empty());
  bed.close(device);
}

TEST_CASE("one access moves a MiB at most, however large its region") {
  KernelBed bed;
  bed.system->bar0 = 16 << 20;
  const auto device = bed.open().value();
  CHECK(bed.number(*device, RegionRead{0, 0, 1 << 20}) == 0);
  CHECK(bed.number(*device, RegionRead{0, 0, (1 << 20) + 1}) == EINVAL);
  CHECK(bed.number(*device, RegionWrite{0, 0, std::vector<std::byte>((1 << 20) + 1)}) == EINVAL);
  bed.close(device);
}

TEST_CASE("a reset leaves bus mastering off") {
  KernelBed bed;
  const auto device = bed.open().value();
  REQUIRE(bed.number(*device, RegionWrite{config_region, 4, {std::byte{6}, std::byte{0}}}) == 0);
  CHECK(bed.system->command() == 6);
  CHECK(bed.number(*device, Reset{}) == 0);
  CHECK(bed.system->command() == 2);
  bed.system->fail("reset", EINVAL);
  CHECK(bed.number(*device, Reset{}) == EINVAL);
  bed.close(device);
}

TEST_CASE("requests take effect in the order of submission") {
  KernelBed bed;
  const auto device = bed.open().value();
  bed.system->calls();
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) {
    Request request = i % 2 == 0 ? Request(RegionWrite{0, 0, std::vector<std::byte>(4)}) : Request(Reset{});
    device->submit(std::move(request), [&order, i](Reply reply) { order.push_back(reply ? i : -1); });
  }
  CHECK(bed.run_until([&order] { return order.size() == 100; }));
  CHECK(std::ranges::is_sorted(order));
  CHECK(order.front() == 0);
  auto calls = bed.system->calls();
  std::erase(calls, "config");
  for (std::size_t i = 0; i < calls.size(); ++i) CHECK(calls[i] == (i % 2 == 0 ? "register" : "reset"));
  bed.close(device);
}

TEST_CASE("a kernel that does not come back loses the device: what waits times out, and nothing waits any more") {
  KernelBed bed;
  const auto device = bed.open(impatient()).value();
  unsigned lost = 0;
  device->on_lost([&lost] { ++lost; });
  bed.system->hang("reset");
  std::vector<int> errors;
  for (int i = 0; i < 3; ++i)
    device->submit(Reset{}, [&errors](Reply reply) { errors.push_back(reply ? 0 : reply.error()); });
  CHECK(bed.run_until([&lost] { return lost == 1; }));
  CHECK(errors == std::vector{ETIMEDOUT, ETIMEDOUT, ETIMEDOUT});
  CHECK(bed.number(*device, GetInfo{}) == ENODEV);
  bool closed = false; // in time, though the kernel still has the device
  device->close([&closed] { closed = true; });
  CHECK(bed.run_until([&closed] { return closed; }));
  CHECK(bed.system->open_descriptors() == 3);
  bed.system->release();
  CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 0; }));
  CHECK(lost == 1);
}

TEST_CASE("a hanging device does not keep others from working") {
  KernelBed bed, other;
  const auto stuck = bed.open(impatient()).value();
  const auto device = other.open().value();
  bed.system->hang("reset");
  bool answered = false;
  stuck->submit(Reset{}, [&answered](const Reply&) { answered = true; });
  CHECK(other.number(*device, Reset{}) == 0);
  CHECK(bed.run_until([&answered] { return answered; }));
  bed.system->release();
  bed.close(stuck);
  other.close(device);
}

TEST_CASE("opening that does not come back fails in time, and leaves nothing open when it does") {
  for (const auto* call : {"set_iommu", "reset"}) {
    KernelBed bed;
    bed.system->hang(call);
    CHECK(fails_with(bed.open(impatient()), Errc::timed_out));
    CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() > 0; }));
    bed.system->release();
    CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 0; }));
  }
}

TEST_CASE("close ends what is under way with ECANCELED, and is told when all is released") {
  KernelBed bed;
  const auto device = bed.open().value();
  bed.system->hang("reset");
  std::vector<int> errors;
  bed.system->calls();
  for (int i = 0; i < 2; ++i)
    device->submit(Reset{}, [&errors](Reply reply) { errors.push_back(reply ? 0 : reply.error()); });
  REQUIRE(bed.asked("reset"));
  unsigned closed = 0;
  for (int i = 0; i < 2; ++i) device->close([&closed] { ++closed; });
  CHECK(errors == std::vector{ECANCELED, ECANCELED});
  CHECK(bed.number(*device, GetInfo{}) == ENODEV);
  CHECK(closed == 0);
  bed.system->release();
  CHECK(bed.run_until([&closed] { return closed == 2; }));
  CHECK(bed.system->open_descriptors() == 0);
  CHECK(std::ranges::count(bed.system->seen(), "reset") == 1); // what had not begun does not
  device->close([&closed] { ++closed; });
  CHECK(bed.run_until([&closed] { return closed == 3; }));
}

TEST_CASE("whoever waits for the end of a device is not told when only what was under way has ended") {
  KernelBed bed;
  const auto device = bed.open().value();
  REQUIRE(bed.number(*device, window(make_memfd("window", page).value(), 0x1000, page)) == 0);
  bed.system->calls();
  bed.system->hang("reset");
  device->submit(Reset{}, [](const Reply&) {});
  REQUIRE(bed.asked("reset"));
  bool closed = false;
  device->close([&closed] { closed = true; });
  bed.system->hang_instead("unmap_dma");
  REQUIRE(bed.asked("unmap_dma 1000+1000"));
  bed.io.restart();
  bed.io.poll();
  CHECK_FALSE(closed);
  bed.system->release();
  CHECK(bed.run_until([&closed] { return closed; }));
}

TEST_CASE("a request outlives the last reference to its device") {
  KernelBed bed;
  auto device = bed.open().value();
  std::optional<Reply> reply;
  device->submit(Reset{}, [&reply](Reply answer) { reply = std::move(answer); });
  device.reset();
  CHECK(bed.run_until([&reply] { return reply.has_value(); }));
  CHECK(reply.value().has_value());
  CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 0; }));
}

TEST_CASE("an event loop that ends first takes its devices with it") {
  auto system = std::make_shared<ScriptedSystem>();
  {
    KernelBed bed;
    bed.system = system;
    auto device = bed.open().value();
    system->hang("reset");
    device->submit(Reset{}, [](const Reply&) {});
    kernel::Device::open(bed.io, system, {.bdf = {0, 6, 0, 1}}, [](const auto&) {});
  }
  system->release();
  while (system->open_descriptors() != 0) std::this_thread::yield();
}

TEST_CASE("too many requests are refused at once") {
  KernelBed bed;
  const auto device = bed.open().value();
  bed.system->hang("reset");
  std::size_t refused = 0;
  for (std::size_t i = 0; i < kernel::Worker::most_waiting + 10; ++i)
    device->submit(Reset{}, [&refused](Reply reply) { refused += !reply && reply.error() == ENOBUFS; });
  CHECK(refused == 10);
  bed.system->release();
  bed.close(device);
}
