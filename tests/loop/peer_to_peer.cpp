// A device that reaches the registers of another one, by a window.
#include "catch.hpp"
#include "checks.hpp"
#include "test_device.hpp"
#include "test_loan.hpp"

#include <optional>
#include <smartio/device.hpp>
#include <unistd.h>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t page = TestDevice::page;

std::size_t windows_of(TestServer& server) {
  return server.with([](TestDevice& model) { return model.windows.size(); });
}

std::string reason(const Result<DmaWindow>& refused) { return refused ? "" : refused.error().context; }

} // namespace

TEST_CASE("a device reaches the registers of another where they are mappable, at their places in the block") {
  TestServer server("peer-device"), other("peer-target");
  const auto device = open_device(server.address()), target = open_device(other.address());
  REQUIRE((device && target));
  {
    const auto window = device->map_bar_of(*target, 0, Access::read);
    REQUIRE(window);
    CHECK(window->size() == target->bar_size(0));
    other.with([](TestDevice& model) { model.bar0.bytes()[page + 9] = std::byte{42}; });
    const auto iova = std::to_underlying(window->iova());
    server.with([iova](TestDevice& model) {
      REQUIRE(model.windows.size() == 1);
      const auto& reached = model.windows.at(iova + page); // BAR 0 can be mapped there, for two pages
      CHECK(reached.size == 2 * page);
      CHECK(reached.access == Access::read);
      CHECK(reached.memory.bytes()[9] == std::byte{42});
    });
    const auto memory = Memory::allocate(page);
    REQUIRE(memory);
    CHECK(fails_with(device->map_dma_at(window->iova(), *memory, Access::read), Errc::bad_request));
  }
  CHECK(windows_of(server) == 0);
}

TEST_CASE("registers that stand further back in their server's file are reached there") {
  TestServer server("far-device"), other("far-target");
  other.with([](TestDevice& model) {
    model.twist = [](vfio::RegionInfo& info) {
      info.fd = make_memfd("registers", 16 * page).value();
      info.fd_offset = 8 * page;
      const char mark = 42;
      [[maybe_unused]] const auto written = ::pwrite(info.fd.get(), &mark, 1, 9 * page + 9); // seen below
    };
  });
  const auto device = open_device(server.address()), target = open_device(other.address());
  REQUIRE((device && target));
  const auto window = device->map_bar_of(*target, 0, Access::read);
  REQUIRE(window);
  const auto iova = std::to_underlying(window->iova());
  server.with([iova](TestDevice& model) {
    REQUIRE(model.windows.contains(iova + page));
    CHECK(model.windows.at(iova + page).memory.bytes()[9] == std::byte{42});
  });
}

TEST_CASE("a refused window onto registers leaves nothing behind") {
  TestServer server("refused-device"), other("refused-target");
  const auto device = open_device(server.address());
  REQUIRE(device);
  server.with([](TestDevice& model) {
    model.refuse = [](const vfio::Request& request) { return std::get_if<vfio::DmaMap>(&request) ? ENOSPC : 0; };
  });
  {
    const auto target = open_device(other.address());
    REQUIRE(target);
    CHECK(fails_with(device->map_bar_of(*target, 0, Access::read_write), Errc::no_window));
    CHECK(windows_of(server) == 0);
  }
  CHECK(other.wait_until_left(4s));
}

TEST_CASE("registers that this program may not map are refused with the reason, and so are BARs that are not there") {
  TestServer server("trapped-device"), other("trapped-target");
  other.with([](TestDevice& model) {
    model.twist = [](vfio::RegionInfo& info) {
      info.fd.reset();
      info.areas.clear();
      info.flags &= ~vfio::region_flag_mmap;
    };
  });
  const auto device = open_device(server.address()), target = open_device(other.address());
  REQUIRE((device && target));
  const auto refused = device->map_bar_of(*target, 0, Access::read);
  CHECK(fails_with(refused, Errc::not_permitted));
  CHECK(reason(refused).find("trapped") != std::string::npos);
  CHECK(fails_with(device->map_bar_of(*target, 1, Access::read), Errc::bad_request));
  CHECK(fails_with(device->map_bar_of(*target, 6, Access::read), Errc::bad_request));
  CHECK(windows_of(server) == 0);
}

TEST_CASE("registers of which a server says what cannot be are not mapped for another device") {
  TestServer server("twisted-device"), other("twisted-target");
  other.with([](TestDevice& model) {
    model.twist = [](vfio::RegionInfo& info) { info.fd = make_memfd("short", TestDevice::page).value(); };
  });
  const auto device = open_device(server.address()), target = open_device(other.address());
  REQUIRE((device && target));
  CHECK(fails_with(device->map_bar_of(*target, 0, Access::read), Errc::bad_request));
  CHECK(windows_of(server) == 0);
}

TEST_CASE("devices of different lenders do not reach each other") {
  TestServer server("lenders-device"), other("lenders-target");
  const auto device = open_loan(server.path(), 4000ms, std::make_shared<TestLoan>(NodeId{8}));
  REQUIRE(device);
  {
    const auto elsewhere = open_loan(other.path(), 4000ms, std::make_shared<TestLoan>(NodeId{9}));
    REQUIRE(elsewhere);
    const auto refused = device->map_bar_of(*elsewhere, 0, Access::read);
    CHECK(fails_with(refused, Errc::bad_request));
    CHECK(reason(refused).find("node 8 and node 9") != std::string::npos);
  }
  REQUIRE(other.wait_until_left(4s));
  const auto here = open_loan(other.path(), 4000ms, std::make_shared<TestLoan>(NodeId{8}));
  REQUIRE(here);
  CHECK(device->map_bar_of(*here, 0, Access::read));
}

TEST_CASE("the target stays while its registers can be reached") {
  TestServer server("stays-device"), other("stays-target");
  const auto device = open_device(server.address());
  REQUIRE(device);
  std::optional<Device> target = open_device(other.address()).value();
  std::optional<DmaWindow> window = device->map_bar_of(*target, 0, Access::read).value();
  target.reset();
  CHECK_FALSE(other.wait_until_left(50ms));
  window.reset();
  CHECK(other.wait_until_left(4s));
}

TEST_CASE("a target that was taken back is refused") {
  TestServer server("gone-device"), other("gone-target");
  const auto device = open_device(server.address()), target = open_device(other.address());
  REQUIRE((device && target));
  other.drop_client();
  REQUIRE(readable(target->revoked_fd(), 4000));
  CHECK(fails_with(device->map_bar_of(*target, 0, Access::read), Errc::revoked));
  CHECK(windows_of(server) == 0);
}
