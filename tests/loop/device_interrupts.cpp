// Interrupt vectors of a device.
#include "catch.hpp"
#include "checks.hpp"
#include "test_device.hpp"

#include <optional>
#include <smartio/device.hpp>

using namespace smartio;
using namespace testing;

namespace {

std::size_t vectors_of(TestServer& server) {
  return server.with([](TestDevice& model) { return model.vectors.size(); });
}

} // namespace

TEST_CASE("a vector that fires makes its own descriptor readable") {
  TestServer server("fire");
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto one = device->interrupt(1);
  const auto three = device->interrupt(3);
  REQUIRE((one && three));
  CHECK_FALSE(readable(three->fd()));
  server.with([](TestDevice& model) { model.fire(3); });
  CHECK(readable(three->fd(), 4000));
  CHECK_FALSE(readable(one->fd()));
  CHECK(drain_eventfd(three->fd()) == 1);
}

TEST_CASE("a vector belongs to one interrupt at a time, and to nobody afterwards") {
  TestServer server("vector");
  const auto device = open_device(server.address());
  REQUIRE(device);
  auto first = std::make_optional(device->interrupt(0).value());
  CHECK(fails_with(device->interrupt(0), Errc::busy));
  CHECK(fails_with(device->interrupt(4), Errc::bad_request));
  auto second = std::make_optional(device->interrupt(2).value());
  CHECK(vectors_of(server) == 2);
  first.reset();
  CHECK(vectors_of(server) == 1);
  CHECK(device->interrupt(0));
  second.reset();
  CHECK(vectors_of(server) == 0);
  CHECK(server.with([](TestDevice& model) { return model.msix_disables; }) == 1);
  CHECK(server.with([](TestDevice& model) { return model.msix_placeholders; }) == 0);
}

TEST_CASE("where the number of vectors is fixed once MSI-X is on, all are turned on first") {
  TestServer server("fixed");
  server.with([](TestDevice& model) { model.msix_flags |= vfio::irq_flag_noresize; });
  const auto device = open_device(server.address());
  REQUIRE(device);
  const auto one = device->interrupt(2);
  const auto other = device->interrupt(3);
  REQUIRE((one && other));
  CHECK(server.with([](TestDevice& model) { return model.msix_placeholders; }) == 1);
  CHECK(vectors_of(server) == 2);
}

TEST_CASE("without MSI-X the vectors are those of MSI") {
  TestServer server("msi");
  server.with([](TestDevice& model) {
    model.interrupts = vfio::msi;
    model.vector_count = 2;
  });
  const auto device = open_device(server.address());
  REQUIRE(device);
  CHECK(device->vectors() == 2);
  const auto one = device->interrupt(1);
  REQUIRE(one);
  server.with([](TestDevice& model) { model.fire(1); });
  CHECK(readable(one->fd(), 4000));
  REQUIRE(one->rearm());
  CHECK(server.with([](TestDevice& model) { return model.unmasks; }) == 0);
}

TEST_CASE("a device with INTx only has one vector, which is unmasked when rearmed") {
  TestServer server("intx");
  server.with([](TestDevice& model) {
    model.interrupts = vfio::intx;
    model.vector_count = 1;
    model.msix_flags |= vfio::irq_flag_maskable | vfio::irq_flag_automasked;
  });
  const auto device = open_device(server.address());
  REQUIRE(device);
  CHECK(device->vectors() == 1);
  const auto line = device->interrupt(0);
  REQUIRE(line);
  server.with([](TestDevice& model) { model.fire(0); });
  CHECK(readable(line->fd(), 4000));
  REQUIRE(line->rearm());
  CHECK(server.with([](TestDevice& model) { return model.unmasks; }) == 1);
}

TEST_CASE("a refused vector is free again") {
  TestServer server("refused-vector");
  const auto device = open_device(server.address());
  REQUIRE(device);
  server.with([](TestDevice& model) {
    model.refuse = [](const vfio::Request& request) { return std::get_if<vfio::SetIrqs>(&request) ? ENOSPC : 0; };
  });
  CHECK(fails_with(device->interrupt(0), ENOSPC));
  server.with([](TestDevice& model) { model.refuse = nullptr; });
  CHECK(device->interrupt(0));
}

TEST_CASE("an interrupt outlives the device object it came from") {
  TestServer server("outlives");
  std::optional<Device> device = open_device(server.address()).value();
  auto interrupt = std::make_optional(device->interrupt(0).value());
  device.reset();
  server.with([](TestDevice& model) { model.fire(0); });
  CHECK(readable(interrupt->fd(), 4000));
  interrupt.reset();
  CHECK(server.wait_until_left(std::chrono::seconds{4}));
}
