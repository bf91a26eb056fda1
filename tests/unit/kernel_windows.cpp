// DMA windows: what may be mapped, what unmapping a range does, and what functions of one group share.
#include "catch.hpp"
#include "scripted_system.hpp"

#include "kernel/windows.hpp"

using namespace testing;
using kernel::Interface;
using Strings = std::vector<std::string>;

namespace {

constexpr std::uint64_t page = 4096;

using Reaches = std::vector<ScriptedSystem::Reach>;

/// That `size` bytes of the file are reached at `iova`.
ScriptedSystem::Reach reach(const Fd& file, std::uint64_t iova, std::uint64_t size, std::uint64_t offset = 0,
                            Access access = Access::read_write) {
  struct stat status {};
  REQUIRE(::fstat(file.get(), &status) == 0);
  return {iova, size, access, status.st_ino, offset};
}

struct Bed : KernelBed {
  std::shared_ptr<kernel::Device> device;
  Fd file = make_memfd("window", 16 * page).value();
  std::string sentence;

  explicit Bed(Interface interface = Interface::type1, std::chrono::milliseconds timeout = std::chrono::seconds(4)) {
    system->cdev = system->dma_buf = interface == Interface::iommufd;
    device = open({.bdf = {0, 6, 0, 0}, .interface = interface, .timeout = timeout}).value();
    device->on_failure([this](const Error& error) { sentence = to_string(error); });
    system->calls();
  }
  ~Bed() { close(device); }

  int map(std::uint64_t iova, std::uint64_t size, std::uint64_t offset = 0) {
    return number(*device, window(file, iova, size, offset));
  }
  int unmap(std::uint64_t iova, std::uint64_t size) { return number(*device, DmaUnmap{Iova{iova}, size}); }
  std::uint64_t unmapped(std::uint64_t iova, std::uint64_t size, bool all = false) {
    const auto reply = ask(*device, DmaUnmap{Iova{iova}, size, all});
    return reply ? std::get<Unmapped>(*reply).size : UINT64_MAX;
  }
};

} // namespace

TEST_CASE("TYPE1 maps our own mapping of the file, and keeps it until the window is unmapped") {
  Bed bed;
  CHECK(bed.map(0x100000, 2 * page, page) == 0);
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x100000, 2 * page, page)});
  CHECK(bed.system->mappings() == 1);
  bed.system->calls();
  CHECK(bed.unmapped(0x100000, 2 * page) == 2 * page);
  CHECK(bed.system->calls() == Strings{"unmap_dma 100000+2000", "munmap 2000"}); // in this order
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->mappings() == 0);
}

TEST_CASE("what the device may only read is mapped for reading") {
  Bed bed;
  CHECK(bed.number(*bed.device, window(bed.file, 0x1000, page, 0, Access::read)) == 0);
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x1000, page, 0, Access::read)});
  CHECK(std::ranges::count(bed.system->calls(), "mmap 0+1000 r") == 1);
}

TEST_CASE("part of a huge page is mapped by way of the whole page") {
  Bed bed;
  bed.system->file_page = 8 * page;
  CHECK(bed.map(0x100000, 2 * page, 7 * page) == 0); // the last page of one, the first of the next
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x100000, 2 * page, 7 * page)});
  CHECK(std::ranges::count(bed.system->calls(), "mmap 0+10000 rw") == 1);
  CHECK(bed.unmap(0x100000, 2 * page) == 0);
  CHECK(bed.system->calls() == Strings{"unmap_dma 100000+2000", "munmap 10000"});
}

TEST_CASE("iommufd maps files by descriptor, and by address where the kernel cannot") {
  Bed bed(Interface::iommufd);
  CHECK(bed.map(0x100000, page, page) == 0);
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x100000, page, page)});
  CHECK(bed.system->mappings() == 0);
  bed.system->map_file = false;
  CHECK(bed.map(0x200000, page) == 0);
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x100000, page, page), reach(bed.file, 0x200000, page)});
  CHECK(bed.system->mappings() == 1);
  CHECK(bed.unmapped(0, UINT64_MAX) == 2 * page);
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->mappings() == 0);
}

TEST_CASE("iommufd maps by address only files that the kernel cannot map by descriptor") {
  Bed bed(Interface::iommufd);
  bed.system->fail("map_space_file", ENOMEM);
  CHECK(bed.map(0x100000, page) == ENOMEM);
  bed.system->fail("map_space_file", EINVAL);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const Fd in(ends[0]), out(ends[1]);
  CHECK(bed.number(*bed.device, window(in, 0x100000, page)) == EINVAL);
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->calls() == Strings(2, "map_space_file 100000+1000 0"));
}

TEST_CASE("another device's registers are mapped by their mapping, or with iommufd as a dma-buf") {
  {
    Bed bed;
    auto info = std::get<RegionInfo>(bed.ask(*bed.device, GetRegionInfo{0}).value());
    bed.system->calls();
    CHECK(bed.number(*bed.device, DmaMap{Iova{0xa0000000}, page, Access::read_write, std::move(info.fd), page}) == 0);
    CHECK(bed.system->calls() == Strings{"device_info", "mmap 1000+1000 rw", "map_dma a0000000+1000 3 0"});
  }
  Bed bed(Interface::iommufd);
  auto info = std::get<RegionInfo>(bed.ask(*bed.device, GetRegionInfo{0}).value());
  bed.system->calls();
  CHECK(bed.number(*bed.device, DmaMap{Iova{0xa0000000}, page, Access::read_write, std::move(info.fd), page}) == 0);
  CHECK(bed.system->calls() == Strings{"device_info", "export_dma_buf 0 1000+1000", "map_space_file a0000000+1000 0"});
}

TEST_CASE("a window of a device that exceeds its registers is refused") {
  Bed bed;
  auto info = std::get<RegionInfo>(bed.ask(*bed.device, GetRegionInfo{0}).value());
  CHECK(bed.number(*bed.device, DmaMap{Iova{0}, 5 * page, Access::read_write, std::move(info.fd), 0}) == EINVAL);
}

TEST_CASE("what is no memory is refused before the kernel is asked") {
  Bed bed;
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const Fd in(ends[0]), out(ends[1]);
  CHECK(bed.number(*bed.device, window(in, 0x1000, page)) == EINVAL);
  CHECK(bed.map(0x1000, 17 * page) == EINVAL);
  CHECK(bed.map(0x1000, page, 16 * page) == EINVAL);
  CHECK(bed.map(0x1000, page, UINT64_MAX - page + 1) == EINVAL);
  CHECK(bed.system->calls().empty());
}

TEST_CASE("what is no range of free addresses is refused with the reason, before the kernel is asked") {
  Bed bed;
  struct Row {
    std::uint64_t iova, size;
    const char* says;
  };
  for (const auto& row :
       {Row{0x1000, 0, "no range"}, Row{UINT64_MAX - page + 1, 2 * page, "no range"}, Row{0x1001, page, "pages"},
        Row{0x1000, 100, "pages"}, Row{0xfee00000, page, "has 0xfee00000 to 0xfeefffff reserved"},
        Row{0xfedff000, 2 * page, "reserved"}, Row{0x8000000000, page, "reserved"}}) {
    INFO(std::hex << row.iova << "+" << row.size);
    CHECK(bed.map(row.iova, row.size) == EINVAL);
    CHECK(bed.sentence.find(row.says) != std::string::npos);
  }
  CHECK(bed.map(0x1000, page, 0x800) == EINVAL);
  CHECK(bed.sentence.find("pages") != std::string::npos);
  CHECK(bed.system->calls().empty());
}

TEST_CASE("windows do not overlap") {
  Bed bed;
  REQUIRE(bed.map(0x10000, 4 * page) == 0);
  for (const auto& [iova, size] : {std::pair(0x10000U, 4U), std::pair(0xf000U, 2U), std::pair(0x13000U, 1U),
                                   std::pair(0x11000U, 1U), std::pair(0x8000U, 16U)})
    CHECK(bed.map(iova, size * page) == EEXIST);
  CHECK(bed.map(0xf000, page) == 0);
  CHECK(bed.map(0x14000, page) == 0);
}

TEST_CASE("an unmapped range takes every window in it, and none that it would cut") {
  Bed bed;
  for (const auto iova : {0x10000U, 0x12000U, 0x20000U}) REQUIRE(bed.map(iova, 2 * page) == 0);
  CHECK(bed.unmap(0x10000, page) == EINVAL);
  CHECK(bed.unmap(0x11000, 8 * page) == EINVAL);
  CHECK(bed.unmap(0x0, 0x13000) == EINVAL);
  CHECK(bed.unmap(0x10000, 0) == EINVAL);
  CHECK(bed.unmap(UINT64_MAX, 2) == EINVAL);
  CHECK(bed.unmapped(0x14000, 0xc000) == 0);
  CHECK(bed.system->reachable().size() == 3);
  CHECK(bed.unmapped(0x10000, 4 * page) == 4 * page);
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x20000, 2 * page)});
  CHECK(bed.unmapped(0x20000, 0 - std::uint64_t{0x20000}) == 2 * page); // to the end of all addresses
  CHECK(bed.system->reachable().empty());
}

TEST_CASE("all windows are unmapped at once") {
  Bed bed;
  for (const auto iova : {0x10000U, 0x20000U}) REQUIRE(bed.map(iova, page) == 0);
  CHECK(bed.unmapped(0, 0, true) == 2 * page);
  CHECK(bed.system->mappings() == 0);
  CHECK(bed.unmapped(0, 0, true) == 0);
}

TEST_CASE("a window without a descriptor is known, and never mapped") {
  Bed bed;
  CHECK(bed.number(*bed.device, window(Fd(), 0x1000, page)) == 0);
  CHECK(bed.map(0x1000, page) == EEXIST);
  CHECK(bed.unmapped(0x1000, page) == page);
  CHECK(bed.system->calls().empty());
}

TEST_CASE("the kernel's limit on windows is kept without asking it") {
  Bed bed;
  bed.system->windows = 2;
  const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value(); // the limit is read when a function joins
  REQUIRE(bed.map(0x1000, page) == 0);
  REQUIRE(bed.map(0x2000, page) == 0);
  bed.system->calls();
  CHECK(bed.map(0x3000, page) == ENOSPC);
  CHECK(bed.system->calls().empty());
  CHECK(bed.sentence.find("all of its 2 windows") != std::string::npos);
  CHECK(bed.unmap(0x1000, page) == 0);
  CHECK(bed.map(0x3000, page) == 0);
  bed.close(second);
}

TEST_CASE("a function that joins a nearly full group leaves it the room that there is, to the last window") {
  struct Row {
    std::uint32_t room; ///< as the kernel says when the second function joins
    unsigned more;      ///< windows that still fit
  };
  for (const auto& [room, more] : {Row{1, 1}, Row{0, 0}, Row{UINT32_MAX, 3}}) {
    Bed bed;
    REQUIRE(bed.map(0x10000, page) == 0);
    REQUIRE(bed.map(0x20000, page) == 0);
    bed.system->windows = room;
    const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value();
    for (unsigned i = 0; i < 3; ++i) {
      INFO(room << " " << i);
      const auto file = make_memfd("another", page).value();
      CHECK(bed.number(i == 0 ? *second : *bed.device, window(file, 0x1000 * (i + 1), page)) ==
            (i < more ? 0 : ENOSPC));
    }
    CHECK(bed.system->reachable().size() == 2 + more);
    bed.close(second);
  }
}

TEST_CASE("memory of which the kernel unmaps less than asked stays, and its device is cut off") {
  for (const auto interface : {Interface::type1, Interface::iommufd})
    for (const std::uint64_t kept : {page, 2 * page}) {
      Bed bed(interface);
      bed.system->map_file = false; // by address, with a mapping of ours to be kept
      REQUIRE(bed.map(0x1000, 2 * page) == 0);
      bed.system->keeps = kept;
      CHECK(bed.unmap(0x1000, 2 * page) == EIO);
      CHECK(bed.system->mappings() == 1);
      CHECK(bed.system->command() == 2); // bus mastering off
      CHECK(bed.map(0x1000, page) == EEXIST);
      bed.system->keeps = 0;
    }
}

TEST_CASE("a failed mapping leaves nothing, and too little lockable memory is said with its numbers") {
  Bed bed;
  REQUIRE(bed.map(0x1000, page) == 0);
  bed.system->fail("map_dma", ENOMEM);
  CHECK(bed.map(0x4000, 2 * page) == ENOMEM);
  CHECK(bed.sentence.find("8192 bytes must be locked") != std::string::npos);
  CHECK(bed.sentence.find("hold 4096 bytes") != std::string::npos);
  CHECK(bed.sentence.find("limit is 8388608") != std::string::npos);
  CHECK(bed.system->mappings() == 1);
  bed.system->fail("mmap", EACCES);
  CHECK(bed.map(0x4000, 2 * page) == EACCES);
  bed.system->succeed("map_dma");
  bed.system->succeed("mmap");
  CHECK(bed.map(0x4000, 2 * page) == 0);
}

TEST_CASE("memory that the kernel will not unmap stays, and its device is cut off") {
  Bed bed;
  REQUIRE(bed.map(0x1000, page) == 0);
  bed.system->fail("unmap_dma", EIO);
  bed.system->calls();
  CHECK(bed.unmap(0x1000, page) == EIO);
  CHECK(bed.system->calls() == Strings{"unmap_dma 1000+1000", "config", "reset", "config"});
  CHECK(bed.system->mappings() == 1);
  CHECK(bed.map(0x1000, page) == EEXIST);
  bed.close(bed.device);
  CHECK(bed.system->mappings() == 0); // with the domain
}

TEST_CASE("functions of a group have an identical window of a file only once, until the last unmaps it") {
  Bed bed;
  const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value();
  REQUIRE(bed.map(0x1000, page) == 0);
  bed.system->calls();
  CHECK(bed.number(*second, window(bed.file, 0x1000, page)) == 0);
  CHECK(bed.number(*second, window(bed.file, 0x1000, page)) == EEXIST);
  CHECK(bed.map(0x1000, page) == EEXIST);
  CHECK(bed.unmapped(0x1000, page) == page);
  CHECK(bed.system->calls().empty());
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x1000, page)});
  CHECK(bed.unmapped(0x1000, page) == 0); // no window of this function any more
  CHECK(bed.number(*second, DmaUnmap{Iova{0x1000}, page}) == 0);
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->mappings() == 0);
  bed.close(second);
}

TEST_CASE("other memory, other rights or no memory under the address of a companion's window is refused") {
  Bed bed;
  const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value();
  const auto other = make_memfd("other", 4 * page).value();
  REQUIRE(bed.map(0x1000, page) == 0);
  CHECK(bed.number(*second, window(other, 0x1000, page)) == EEXIST);
  CHECK(bed.number(*second, window(bed.file, 0x1000, page, page)) == EEXIST);
  CHECK(bed.number(*second, window(bed.file, 0x1000, 2 * page)) == EEXIST);
  CHECK(bed.number(*second, window(bed.file, 0x1000, page, 0, Access::read)) == EEXIST);
  CHECK(bed.number(*second, window(Fd(), 0x1000, page)) == EEXIST);
  bed.close(second);
}

TEST_CASE("a function that leaves takes its own windows with it, not its companion's") {
  Bed bed;
  const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value();
  REQUIRE(bed.map(0x1000, page) == 0);
  REQUIRE(bed.number(*second, window(bed.file, 0x2000, page)) == 0);
  bed.close(second);
  CHECK(bed.system->reachable() == Reaches{reach(bed.file, 0x1000, page)});
  CHECK(bed.system->mappings() == 1);
  CHECK(bed.map(0x2000, page) == 0);
}

namespace {

constexpr std::uint64_t gib = 1ULL << 30;

/// A file of 2.5 GiB, without memory: nobody touches it.
Fd large_file() { return make_memfd("large", 5 * gib / 2).value(); }

} // namespace

TEST_CASE("TYPE1: a window of more than a GiB is mapped in pieces, and unmapped exactly so") {
  Bed bed;
  const auto file = large_file();
  CHECK(bed.number(*bed.device, window(file, 0x100000000, 2 * gib + page, gib / 2 - page)) == 0);
  CHECK(bed.system->reachable() == Reaches{reach(file, 0x100000000, 2 * gib + page, gib / 2 - page)});
  CHECK(bed.system->mappings() == 3);
  CHECK(bed.unmap(0x100000000, gib) == EINVAL); // where it would cut the window, though not a piece
  CHECK(bed.unmapped(0x100000000, 2 * gib + page) == 2 * gib + page);
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->mappings() == 0);
}

TEST_CASE("iommufd: a window of more than a GiB is mapped in pieces, and unmapped exactly so") {
  Bed bed(Interface::iommufd);
  for (const bool by_address : {false, true}) {
    bed.system->map_file = !by_address;
    const auto file = large_file();
    CHECK(bed.number(*bed.device, window(file, 0x40000000, 2 * gib, page)) == 0);
    CHECK(bed.system->reachable() == Reaches{reach(file, 0x40000000, 2 * gib, page)});
    CHECK(bed.system->mappings() == (by_address ? 2 : 0));
    CHECK(bed.unmapped(0, 0, true) == 2 * gib);
    CHECK(bed.system->reachable().empty());
    CHECK(bed.system->mappings() == 0);
  }
}

TEST_CASE("a window of which the kernel refuses a piece leaves nothing mapped") {
  Bed bed;
  bed.system->fail("map_dma 180000000", ENOMEM);
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 5 * gib / 2)) == ENOMEM);
  CHECK(bed.sentence.find("windows hold 0 bytes") != std::string::npos);
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->mappings() == 0);
  bed.system->succeed("map_dma 180000000");
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 5 * gib / 2)) == 0);
}

TEST_CASE("a device that keeps pieces of a refused window is cut off, and the window's addresses stay taken") {
  Bed bed;
  bed.system->fail("map_dma 180000000", ENOMEM);
  bed.system->fail("unmap_dma 100000000", EIO);
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 5 * gib / 2)) == ENOTRECOVERABLE);
  CHECK(bed.sentence.find("may still reach") != std::string::npos);
  const auto calls = bed.system->calls();
  CHECK(std::ranges::count(calls, "reset") == 1);
  CHECK(bed.system->command() == 2); // bus mastering off
  CHECK(bed.system->mappings() == 1);
  CHECK(bed.map(0x100000000, page) == EEXIST);
  bed.system->succeed("unmap_dma 100000000");
  CHECK(bed.unmapped(0, 0, true) == 5 * gib / 2);
  CHECK(bed.system->mappings() == 0);
}

TEST_CASE("the kernel's limit on windows counts pieces") {
  Bed bed;
  bed.system->windows = 3;
  const auto second = bed.open({.bdf = {0, 6, 0, 1}}).value(); // asks for the limits again
  REQUIRE(bed.map(0x1000, page) == 0);
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 5 * gib / 2)) == ENOSPC);
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 2 * gib)) == 0);
  CHECK(bed.map(0x2000, page) == ENOSPC);
  CHECK(bed.unmap(0x100000000, 2 * gib) == 0);
  CHECK(bed.map(0x2000, page) == 0);
  bed.close(second);
}

TEST_CASE("very much memory may take longer than a request, as long as each GiB is in time") {
  constexpr std::chrono::milliseconds timeout{1000}, each{450}; // three pieces
  Bed bed(Interface::type1, timeout);
  unsigned lost = 0;
  bed.device->on_lost([&lost] { ++lost; });
  bed.system->slow("map_dma", each);
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 5 * gib / 2)) == 0);
  bed.system->slow("unmap_dma", each);
  CHECK(bed.unmap(0x100000000, 5 * gib / 2) == 0);
  CHECK(lost == 0);
  bed.system->slow("", {});
  bed.system->hang("map_dma 140000000");
  CHECK(bed.number(*bed.device, window(large_file(), 0x100000000, 5 * gib / 2)) == ETIMEDOUT);
  CHECK(lost == 1);
  bed.system->release();
}

TEST_CASE("closing a device ends a mapping under way, and what there is of it") {
  Bed bed;
  bed.system->hang("map_dma 140000000");
  std::optional<int> outcome;
  bed.device->submit(window(large_file(), 0x100000000, 5 * gib / 2),
                     [&outcome](Reply reply) { outcome = reply ? 0 : reply.error(); });
  REQUIRE(bed.asked("map_dma 140000000+40000000 3 0"));
  bool closed = false;
  bed.device->close([&closed] { closed = true; });
  CHECK(outcome == ECANCELED);
  bed.system->release();
  CHECK(bed.run_until([&closed] { return closed; }));
  const auto calls = bed.system->calls();
  CHECK(std::ranges::count(calls, "map_dma 180000000+20000000 3 0") == 0);
  CHECK(bed.system->reachable().empty());
  CHECK(bed.system->mappings() == 0);
}
