// Opening a device, and its registers: mapped and trapped, and servers that lie.
#include "bar.hpp"
#include "catch.hpp"
#include "checks.hpp"
#include "test_device.hpp"

#include <csignal>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <smartio/device.hpp>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

namespace {

constexpr unsigned asked_at_open = 1; ///< what the device is

constexpr std::uint64_t page = TestDevice::page;

} // namespace

TEST_CASE("a device opens with what its server says it is") {
  TestServer server("open");
  const auto device = open_device(server.address());
  REQUIRE(device);
  CHECK(device->vectors() == 4);
  CHECK(device->bar_size(0) == 4 * page);
  CHECK(device->bar_size(1) == 0);
  CHECK(device->bar_size(2) == page);
  CHECK(device->bar_size(6) == 0);
  CHECK_FALSE(readable(device->revoked_fd()));
}

TEST_CASE("areas that a server offers are mapped only if they are pages of the registers and of its file, in order") {
  struct Row {
    const char* what;
    std::vector<vfio::RegionArea> areas;
    std::uint64_t fd_offset;
    bool good;
  };
  const Row rows[]{
      {"all of it", {{0, 4 * page}}, 0, true},
      {"two side by side", {{0, page}, {page, page}}, 0, true},
      {"the same twice", {{0, page}, {0, page}}, 0, false},
      {"two that overlap", {{0, 2 * page}, {page, page}}, 0, false},
      {"the later one first", {{2 * page, page}, {0, page}}, 0, false},
      {"nothing", {{page, 0}}, 0, false},
      {"half a page", {{0, page / 2}}, 0, false},
      {"from half a page on", {{page / 2, page}}, 0, false},
      {"beyond the registers", {{3 * page, 2 * page}}, 0, false},
      {"at the end of the numbers", {{UINT64_MAX - page + 1, page}}, 0, false},
      {"as long as there are numbers", {{page, UINT64_MAX - page + 1}}, 0, false},
      {"up to the end of the file", {{0, 4 * page}}, page, true},
      {"beyond the end of the file", {{0, 4 * page}}, 2 * page, false},
      {"of a file from half a page on", {{0, page}}, page / 2, false},
      {"far beyond the end of the file", {{0, page}}, UINT64_MAX - page + 1, false},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    vfio::RegionInfo region{vfio::region_flag_mmap, 4 * page, row.fd_offset, row.areas, {}};
    region.fd = make_memfd("registers", 5 * page).value();
    CHECK(detail::check_areas(region, 0, 4 * page).has_value() == row.good);
  }
}

TEST_CASE("addresses of another kind, sockets that are none and silent servers are refused") {
  CHECK(fails_with(open_device("06:00.0"), Errc::bad_request));
  CHECK(fails_with(open_device(""), Errc::bad_request));
  CHECK(fails_with(open_device("vfio-user:"), Errc::bad_request));
  CHECK(fails_with(open_device("vfio-user:/nonexistent/socket"), Errc::peer_down));
  CHECK(fails_with(open_device("vfio-user:/etc/passwd"), Errc::peer_down));
  CHECK_FALSE(open_device("vfio-user:/tmp/" + std::string(200, 'x')));

  const std::string path = "/tmp/smartio-test-silent-" + std::to_string(::getpid());
  const Fd silent(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(silent.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(silent.get(), 1) == 0);
  const auto began = std::chrono::steady_clock::now();
  CHECK(fails_with(open_device("vfio-user:" + path, 200ms), Errc::timed_out));
  CHECK(std::chrono::steady_clock::now() - began < 3s);
  ::unlink(path.c_str());
}

TEST_CASE("a device that has a client is busy, and can be opened once that has gone") {
  TestServer server("busy");
  {
    const auto device = open_device(server.address());
    REQUIRE(device);
    CHECK(fails_with(open_device(server.address()), Errc::busy));
  }
  REQUIRE(server.wait_until_left(4s));
  CHECK(open_device(server.address()));
}

TEST_CASE("mapped registers are the device's own memory, without messages") {
  TestServer server("mapped");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto bar = device->map_bar(0);
  REQUIRE(bar);
  REQUIRE(bar->areas().size() == 1);
  CHECK(bar->areas()[0].offset == page);
  CHECK(bar->areas()[0].bytes.size() == 2 * page);
  CHECK(bar->mapped(page, 2 * page) == bar->areas()[0].bytes.data());
  CHECK(bar->mapped(page - 4, 8) == nullptr);
  CHECK(bar->mapped(3 * page - 4, 8) == nullptr);
  CHECK(bar->mapped(SIZE_MAX, 2) == nullptr);

  CHECK(bar->write(page + 8, 4, 0x12345678));
  CHECK(*reinterpret_cast<volatile std::uint32_t*>(bar->mapped(page + 8, 4)) == 0x12345678);
  const auto at = [&server](std::size_t offset) {
    return server.with([offset](TestDevice& model) { return model.bar0.bytes()[offset]; });
  };
  CHECK(at(page + 8) == std::byte{0x78});
  CHECK(at(page + 11) == std::byte{0x12});
  CHECK(bar->read(page + 8, 2) == 0x5678);
  CHECK(server.with([](TestDevice& model) { return model.region_accesses; }) == asked_at_open);
}

TEST_CASE("registers that are not mapped are reached by messages, at every width") {
  TestServer server("trapped");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto bar = device->map_bar(0);
  REQUIRE(bar);
  CHECK(bar->write(16, 8, 0x1122334455667788));
  CHECK(bar->read(16, 8) == 0x1122334455667788);
  CHECK(bar->read(16, 4) == 0x55667788);
  CHECK(bar->read(20, 2) == 0x3344);
  CHECK(bar->read(23, 1) == 0x11);
  CHECK(server.with([](TestDevice& model) { return model.region_accesses; }) == asked_at_open + 5);
  const auto trapped = device->map_bar(2);
  REQUIRE(trapped);
  CHECK(trapped->areas().empty());
  CHECK(trapped->write(page - 4, 4, 1));
  CHECK(trapped->read(page - 4, 4) == 1);
}

TEST_CASE("accesses of odd widths, misaligned or outside the block are refused without a message") {
  TestServer server("bad-access");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto bar = device->map_bar(0);
  REQUIRE(bar);
  for (const unsigned width : {0U, 3U, 5U, 16U, 0x80000000U}) CHECK(fails_with(bar->read(0, width), Errc::bad_request));
  CHECK(fails_with(bar->read(2, 4), Errc::bad_request));
  CHECK(fails_with(bar->read(4 * page, 4), Errc::bad_request));
  CHECK(fails_with(bar->read(SIZE_MAX - 7, 8), Errc::bad_request));
  CHECK(fails_with(bar->write(page + 1, 8, 0), Errc::bad_request));
  CHECK(fails_with(device->map_bar(1), Errc::bad_request));
  CHECK(fails_with(device->map_bar(6), Errc::bad_request));
  CHECK(server.with([](TestDevice& model) { return model.region_accesses; }) == asked_at_open);
}

TEST_CASE("a server that offers what cannot be mapped is refused") {
  TestServer server("liar");
  const auto map_twisted = [&server](std::move_only_function<void(vfio::RegionInfo&)> twist) -> Result<BarMapping> {
    server.with([&twist](TestDevice& model) { model.twist = std::move(twist); });
    const auto device = open_device(server.address());
    if (!device) return std::unexpected(device.error());
    return device->map_bar(0);
  };
  REQUIRE(map_twisted(nullptr));
  const auto short_file = [](vfio::RegionInfo& info) { info.fd = make_memfd("short", page).value(); };
  CHECK(fails_with(map_twisted(short_file), Errc::bad_request));
  const auto beyond = [](vfio::RegionInfo& info) { info.fd_offset = 4 * page; };
  CHECK(fails_with(map_twisted(beyond), Errc::bad_request));
  const auto huge = [](vfio::RegionInfo& info) {
    info.size = UINT64_MAX;
    info.areas = {{page, UINT64_MAX - 2 * page + 1}};
  };
  CHECK_FALSE(map_twisted(huge));
  CHECK_FALSE(map_twisted([](vfio::RegionInfo& info) { info.fd_offset = UINT64_MAX - page + 1; }));
  CHECK_FALSE(map_twisted([](vfio::RegionInfo& info) { info.areas = {{page, UINT64_MAX - page + 1}}; }));
  CHECK_FALSE(map_twisted([](vfio::RegionInfo& info) { info.areas = {{page / 2, page}}; }));
  CHECK_FALSE(map_twisted([](vfio::RegionInfo& info) { info.areas = {{page, 100}}; }));
  CHECK(map_twisted(nullptr));
}

TEST_CASE("a server that offers no PCI device, or more vectors than one can have, is refused") {
  TestServer server("no-device");
  server.with([](TestDevice& model) { model.vector_count = 2049; });
  CHECK(fails_with(open_device(server.address()), Errc::bad_request));
  server.with([](TestDevice& model) { model.vector_count = 2048, model.flags = vfio::device_flag_reset; });
  CHECK(fails_with(open_device(server.address()), Errc::bad_request));
  server.with([](TestDevice& model) { model.flags |= vfio::device_flag_pci; });
  CHECK(open_device(server.address()));
}

TEST_CASE("an access that begins within the block and ends beyond it is refused without a message") {
  TestServer server("odd-size");
  server.with([](TestDevice& model) { model.bar2.resize(page + 4); });
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto bar = device->map_bar(2);
  REQUIRE(bar);
  CHECK(bar->read(page, 4) == 0U);
  CHECK(fails_with(bar->read(page, 8), Errc::bad_request));
  CHECK(fails_with(bar->write(page, 8, 0), Errc::bad_request));
}

TEST_CASE("registers that may only be read are mapped so, and a forked child has none of them") {
  TestServer server("read-only");
  server.with(
      [](TestDevice& model) { model.twist = [](vfio::RegionInfo& info) { info.flags &= ~vfio::region_flag_write; }; });
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto bar = device->map_bar(0);
  REQUIRE(bar);
  const auto* at = bar->mapped(page, 4);
  REQUIRE(at != nullptr);
  std::ifstream maps("/proc/self/maps");
  const auto start = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(at));
  std::string line;
  while (std::getline(maps, line) && !line.starts_with(start)) {}
  CHECK(line.find(" r--s ") != std::string::npos);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGSEGV, [](int) { ::_exit(7); });
    ::_exit(static_cast<int>(*at) & 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 7));
}

TEST_CASE("configuration space is read and written within its bounds") {
  TestServer server("config");
  const auto device = open_device(server.address());
  REQUIRE(device);
  CHECK(device->write_config(4, 2, 0x0006));
  CHECK(device->read_config(4, 4) == 6U);
  CHECK(device->read_config(255, 1) == 0U);
  CHECK(fails_with(device->read_config(256, 1), Errc::bad_request));
  CHECK(fails_with(device->read_config(3, 2), Errc::bad_request));
  CHECK(fails_with(device->write_config(0, 8, 0), Errc::bad_request));
  server.with([](TestDevice& model) {
    model.refuse = [](const vfio::Request& request) { return std::get_if<vfio::RegionWrite>(&request) ? EPERM : 0; };
  });
  CHECK(fails_with(device->write_config(4, 2, 0), EPERM));
}

TEST_CASE("a reset reaches the device") {
  TestServer server("reset");
  const auto device = open_device(server.address());
  REQUIRE(device);
  CHECK(device->reset());
  CHECK(server.with([](TestDevice& model) { return model.resets; }) == 1);
}
