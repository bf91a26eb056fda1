// A device of a test's server with everything that a program can have of it, and what is left of that at its end.
#pragma once

#include "catch.hpp"
#include "checks.hpp"
#include "test_device.hpp"

#include <smartio/device.hpp>

namespace testing {

inline constexpr std::uint64_t page = TestDevice::page;

inline unsigned memories() { return mappings_named("smartio-memory"); }

inline volatile std::uint32_t& word(const smartio::BarMapping& bar, std::size_t offset) {
  return *reinterpret_cast<volatile std::uint32_t*>(bar.mapped(offset, 4));
}

// Everything a program can have of a device.
struct InUse {
  explicit InUse(const std::string& path, std::chrono::milliseconds timeout = std::chrono::milliseconds{4000})
      : device(smartio::open_device("vfio-user:" + path, timeout).value()), bar(device.map_bar(0).value()),
        memory(smartio::Memory::allocate(page).value()), window(device.map_dma(memory, smartio::Access::write).value()),
        interrupt(device.interrupt(0).value()) {
    word(bar, page) = 7;
  }
  smartio::Device device;
  smartio::BarMapping bar;
  smartio::Memory memory;
  smartio::DmaWindow window;
  smartio::Interrupt interrupt;
};

// What holds from the moment revoked_fd is readable.
inline void check_taken_back(InUse& use) {
  REQUIRE(readable(use.device.revoked_fd(), 4000));
  CHECK(word(use.bar, page) == UINT32_MAX);
  CHECK(use.bar.read(page, 8) == UINT64_MAX);
  CHECK(use.bar.read(page, 1) == 0xff);
  CHECK(use.bar.read(0, 4) == UINT32_MAX);
  CHECK(fails_with(use.bar.write(page, 4, 1), smartio::Errc::revoked));
  CHECK(fails_with(use.bar.write(0, 4, 1), smartio::Errc::revoked));
  word(use.bar, page + 4) = 9; // goes to no device
  CHECK(use.bar.read(page + 4, 4) == UINT32_MAX);
  CHECK(fails_with(use.device.map_bar(0), smartio::Errc::revoked));
  CHECK(fails_with(use.device.map_dma(use.memory, smartio::Access::read), smartio::Errc::revoked));
  CHECK(fails_with(use.device.interrupt(1), smartio::Errc::revoked));
  CHECK(fails_with(use.device.read_config(0, 4), smartio::Errc::revoked));
  CHECK(fails_with(use.device.write_config(4, 2, 0), smartio::Errc::revoked));
  CHECK(fails_with(use.device.reset(), smartio::Errc::revoked));
}

inline void ignore_unmaps(TestServer& server) {
  server.with([](TestDevice& model) {
    model.ignore = [](const smartio::vfio::Request& request) {
      return std::get_if<smartio::vfio::DmaUnmap>(&request) != nullptr;
    };
  });
}

} // namespace testing
