// DMA windows: what the device can reach, until when, and what happens to memory it may still write.
#include "catch.hpp"
#include "checks.hpp"
#include "test_device.hpp"

#include <optional>
#include <set>
#include <smartio/device.hpp>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t page = TestDevice::page, gib = 1ULL << 30;

std::size_t windows_of(TestServer& server) {
  return server.with([](TestDevice& model) { return model.windows.size(); });
}

template <class Request> void refuse(TestServer& server, int number) {
  server.with([number](TestDevice& model) {
    model.refuse = [number](const vfio::Request& request) { return std::get_if<Request>(&request) ? number : 0; };
  });
}

unsigned memories() { return mappings_named("smartio-memory"); }

} // namespace

TEST_CASE("the device reaches the memory of a window, and no longer when its destructor has returned") {
  TestServer server("window");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto memory = Memory::allocate(2 * page);
  REQUIRE(memory);
  {
    const auto window = device->map_dma(*memory, Access::write);
    REQUIRE(window);
    CHECK(window->size() == 2 * page);
    const auto iova = std::to_underlying(window->iova());
    server.with([iova](TestDevice& model) {
      model.windows.at(iova).memory.bytes()[5000] = std::byte{42};
      CHECK(model.windows.at(iova).access == Access::write);
    });
    CHECK(memory->bytes()[5000] == std::byte{42});
    CHECK(windows_of(server) == 1);
  }
  CHECK(windows_of(server) == 0);
}

TEST_CASE("a server reads the memory of a window by message too, as long as the window is there") {
  TestServer server("by-message");
  const auto device = open_device(server.address());
  const auto memory = Memory::allocate(page);
  REQUIRE((device && memory));
  memory->bytes()[7] = std::byte{42};
  Iova iova{};
  {
    const auto window = device->map_dma(*memory, Access::read);
    REQUIRE(window);
    iova = window->iova();
    CHECK(server.dma_read(Iova{std::to_underlying(iova) + 7}, 1) == std::vector{std::byte{42}});
  }
  CHECK(server.dma_read(iova, 1) == std::unexpected(EFAULT));
}

TEST_CASE("very much memory is mapped a GiB at a time, at contiguous addresses, and none of it stays") {
  constexpr std::uint64_t size = 5 * gib / 2;
  TestServer server("large");
  const auto device = open_device(server.address());
  const auto memory = Memory::allocate(size); // nobody touches it
  REQUIRE((device && memory));
  {
    const auto window = device->map_dma(*memory, Access::read_write);
    REQUIRE(window);
    CHECK(window->size() == size);
    const auto iova = std::to_underlying(window->iova());
    server.with([iova](TestDevice& model) {
      REQUIRE(model.windows.size() == 3);
      model.windows.at(iova + 2 * gib).memory.bytes()[7] = std::byte{42};
      CHECK(model.windows.at(iova + gib).size == gib);
      CHECK(model.windows.at(iova + 2 * gib).size == gib / 2);
    });
    CHECK(memory->bytes()[2 * gib + 7] == std::byte{42});
  }
  CHECK(windows_of(server) == 0);
  std::size_t maps = 0;
  server.with([&maps](TestDevice& model) {
    model.refuse = [&maps](const vfio::Request& request) {
      return std::get_if<vfio::DmaMap>(&request) != nullptr && ++maps == 3 ? ENOSPC : 0;
    };
  });
  CHECK(fails_with(device->map_dma(*memory, Access::read_write), Errc::no_window));
  CHECK(windows_of(server) == 0);
}

TEST_CASE("memory that begins within its file is mapped from there") {
  TestServer server("part");
  const auto device = open_device(server.address());
  const auto file = Memory::allocate(4 * page);
  REQUIRE((device && file));
  const auto part = Memory::from_fd(file->fd(), 2 * page, page);
  REQUIRE(part);
  const auto window = device->map_dma(*part, Access::read_write);
  REQUIRE(window);
  server.with([iova = std::to_underlying(window->iova())](TestDevice& model) {
    model.windows.at(iova).memory.bytes()[7] = std::byte{42};
  });
  CHECK(part->bytes()[7] == std::byte{42});
}

TEST_CASE("windows have addresses of their own, and moved ones are unmapped once") {
  TestServer server("addresses");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto memory = Memory::allocate(page);
  REQUIRE(memory);
  std::vector<DmaWindow> windows;
  std::set<std::uint64_t> addresses;
  for (int i = 0; i < 20; ++i) {
    auto window = device->map_dma(*memory, Access::read_write);
    REQUIRE(window);
    addresses.insert(std::to_underlying(window->iova()));
    windows.push_back(std::move(*window));
  }
  CHECK(addresses.size() == 20);
  CHECK(windows_of(server) == 20);
  windows[3] = std::move(windows[4]);
  CHECK(windows_of(server) == 19);
  windows.clear();
  CHECK(windows_of(server) == 0);
}

TEST_CASE("a chosen address is taken when it is free, aligned and not reserved") {
  TestServer server("chosen");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto memory = Memory::allocate(2 * page);
  REQUIRE(memory);
  const auto window = device->map_dma_at(Iova{0}, *memory, Access::read);
  REQUIRE(window);
  CHECK(window->iova() == Iova{0});
  CHECK(fails_with(device->map_dma_at(Iova{page}, *memory, Access::read), Errc::bad_request));
  CHECK(fails_with(device->map_dma_at(Iova{0xfee00000}, *memory, Access::read), Errc::bad_request));
  CHECK(fails_with(device->map_dma_at(Iova{0x10800}, *memory, Access::read), Errc::bad_request));
  CHECK(fails_with(device->map_dma_at(Iova{UINT64_MAX - page + 1}, *memory, Access::read), Errc::bad_request));
  CHECK(device->map_dma_at(Iova{2 * page}, *memory, Access::read));
  CHECK(windows_of(server) == 1);
}

TEST_CASE("programs that share a device each have windows in their slice, and no more than it holds") {
  const unsigned slice = GENERATE(0U, 1U, 31U);
  const auto start = slice * iova_slice_size, end = start + iova_slice_size;
  TestServer server("slice");
  server.with([slice](TestDevice& model) { model.flags = vfio::with_slice(model.flags, slice); });
  const auto device = open_device(server.address());
  const auto memory = Memory::allocate(4 * page), large = Memory::allocate(16 * gib); // nobody touches it
  REQUIRE((device && memory && large));
  const auto lowest = device->map_dma(*memory, Access::read_write);
  REQUIRE(lowest);
  CHECK(lowest->iova() == Iova{slice == 0 ? page : start});
  const auto highest = device->map_dma_at(Iova{end - 4 * page}, *memory, Access::read);
  CHECK(highest);
  CHECK(fails_with(device->map_dma(*large, Access::read), Errc::no_window));
  for (const auto outside : {start - page, end - page, end, UINT64_MAX - 4 * page + 1}) {
    const auto refused = device->map_dma_at(Iova{outside}, *memory, Access::read);
    REQUIRE(fails_with(refused, Errc::bad_request));
    CHECK(refused.error().context.find("the device is shared") != std::string::npos);
  }
  CHECK(windows_of(server) == 2);
}

TEST_CASE(
    "windows keep clear of what the lender's IOMMU reserves, and one that is wanted there is refused with the range") {
  TestServer server("reserved");
  server.with([](TestDevice& model) {
    model.usable = {{0x8000, 0x9fff}, {0x10000000, 0x1fffffff}};
    model.refuse = [](const vfio::Request& request) { // as the lender does
      const auto* map = std::get_if<vfio::DmaMap>(&request);
      if (map == nullptr) return 0;
      const auto iova = std::to_underlying(map->iova);
      const bool usable = (iova >= 0x8000 && iova + map->size <= 0xa000) || iova >= 0x10000000;
      return usable ? 0 : EINVAL;
    };
  });
  const auto device = open_device(server.address());
  const auto memory = Memory::allocate(2 * page), large = Memory::allocate(0x10000000 + page); // nobody touches it
  REQUIRE((device && memory && large));
  const auto first = device->map_dma(*memory, Access::read_write),
             second = device->map_dma(*memory, Access::read_write);
  REQUIRE((first && second));
  CHECK(first->iova() == Iova{0x8000});
  CHECK(second->iova() == Iova{0x10000000});
  CHECK(fails_with(device->map_dma(*large, Access::read), Errc::no_window));
  for (const auto& [iova, range] : {std::pair(0x7000U, "0x0 to 0x7fff"), std::pair(0x9000U, "0xa000 to 0xfffffff"),
                                    std::pair(0x20000000U, "0x20000000 to 0xffffffffffffffff")}) {
    const auto refused = device->map_dma_at(Iova{iova}, *memory, Access::read);
    REQUIRE(fails_with(refused, Errc::bad_request));
    CHECK(refused.error().context.find(range) != std::string::npos);
  }
  CHECK(device->map_dma_at(Iova{0x1fffe000}, *memory, Access::read));
  CHECK(windows_of(server) == 2);
}

TEST_CASE("a slice that there is not is none") {
  TestServer server("no-slice");
  server.with([](TestDevice& model) { model.flags |= 0xffU << vfio::device_flags_slice_shift; });
  const auto device = open_device(server.address());
  const auto memory = Memory::allocate(page);
  REQUIRE((device && memory));
  CHECK(device->map_dma_at(Iova{1ULL << 40}, *memory, Access::read));
}

TEST_CASE("memory that is not whole pages is refused") {
  TestServer server("odd");
  const auto device = open_device(server.address());
  const auto file = Memory::allocate(page);
  REQUIRE((device && file));
  const auto part = Memory::from_fd(file->fd(), 0, 100);
  REQUIRE(part);
  CHECK(fails_with(device->map_dma(*part, Access::read), Errc::bad_request));
}

TEST_CASE("a refused window leaves nothing behind") {
  TestServer server("refused");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const unsigned before = memories();
  {
    const auto memory = Memory::allocate(page);
    REQUIRE(memory);
    refuse<vfio::DmaMap>(server, ENOSPC);
    CHECK(fails_with(device->map_dma_at(Iova{page}, *memory, Access::read), Errc::no_window));
    refuse<vfio::DmaMap>(server, EINVAL);
    CHECK(fails_with(device->map_dma_at(Iova{page}, *memory, Access::read), EINVAL));
    refuse<vfio::DmaMap>(server, 0);
    CHECK(device->map_dma_at(Iova{page}, *memory, Access::read));
  }
  CHECK(memories() == before);
}

TEST_CASE("memory whose window cannot be unmapped is kept for ever, and so is its address") {
  TestServer server("kept");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const unsigned before = memories();
  {
    const auto memory = Memory::allocate(page);
    REQUIRE(memory);
    const auto window = device->map_dma_at(Iova{page}, *memory, Access::write);
    REQUIRE(window);
    refuse<vfio::DmaUnmap>(server, EIO);
  }
  server.with([](TestDevice& model) { model.windows.clear(); }); // its own mapping of the memory
  CHECK(memories() == before + 1);
  refuse<vfio::DmaUnmap>(server, 0);
  const auto other = Memory::allocate(page);
  REQUIRE(other);
  CHECK(fails_with(device->map_dma_at(Iova{page}, *other, Access::write), Errc::bad_request));
}

TEST_CASE("memory whose mapping was answered with nonsense is kept, since nobody knows what the device reaches") {
  TestServer server("nonsense");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const unsigned before = memories();
  {
    const auto memory = Memory::allocate(page);
    REQUIRE(memory);
    refuse<vfio::DmaMap>(server, EPROTO);
    CHECK(fails_with(device->map_dma(*memory, Access::write), Errc::bad_request));
  }
  CHECK(memories() == before + 1);
}

TEST_CASE("memory whose unmap is never answered is kept, after the device's timeout") {
  TestServer server("unanswered");
  const auto device = open_device(server.address(), 300ms);
  REQUIRE(device);
  const unsigned before = memories();
  const auto began = std::chrono::steady_clock::now();
  {
    const auto memory = Memory::allocate(page);
    REQUIRE(memory);
    const auto window = device->map_dma(*memory, Access::write);
    REQUIRE(window);
    server.with([](TestDevice& model) {
      model.ignore = [](const vfio::Request& request) { return std::get_if<vfio::DmaUnmap>(&request) != nullptr; };
    });
  }
  CHECK(std::chrono::steady_clock::now() - began < 3s);
  server.with([](TestDevice& model) { model.windows.clear(); }); // its own mapping of the memory
  CHECK(memories() == before + 1);
}

TEST_CASE("memory whose mapping was never answered is kept") {
  TestServer server("half-mapped");
  const auto device = open_device(server.address(), 300ms);
  REQUIRE(device);
  const unsigned before = memories();
  {
    const auto memory = Memory::allocate(page);
    REQUIRE(memory);
    server.with([](TestDevice& model) {
      model.ignore = [](const vfio::Request& request) { return std::get_if<vfio::DmaMap>(&request) != nullptr; };
    });
    CHECK(fails_with(device->map_dma(*memory, Access::write), Errc::timed_out));
  }
  CHECK(memories() == before + 1);
}

TEST_CASE("device, window, memory and registers may go in any order") {
  for (int order = 0; order < 24; ++order) {
    TestServer server("order");
    std::optional<Device> device = open_device(server.address()).value();
    std::optional<Memory> memory = Memory::allocate(page).value();
    std::optional<BarMapping> bar = device->map_bar(0).value();
    std::optional<DmaWindow> window = device->map_dma(*memory, Access::write).value();
    int rest = order;
    std::vector<int> left{0, 1, 2, 3};
    for (int choices = 4; choices > 0; --choices) {
      const int chosen = left[static_cast<std::size_t>(rest % choices)];
      rest /= choices;
      std::erase(left, chosen);
      if (chosen == 0) device.reset();
      if (chosen == 1) memory.reset();
      if (chosen == 2) bar.reset();
      if (chosen == 3) window.reset();
      if (!window && !left.empty() && (device || bar)) CHECK(windows_of(server) == 0);
    }
    CHECK(server.wait_until_left(4s));
  }
}
