// The table of a node's devices: everything that finds one agrees with every other.
#include "own_devices.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;

namespace {

OwnDevices three() {
  OwnDevices devices;
  for (const auto* address : {"a", "b", "c"}) devices.add(*devices.lowest_free(), address);
  return devices;
}

Identity in_group(unsigned group) {
  Identity identity;
  identity.iommu_group = group;
  return identity;
}

} // namespace

TEST_CASE("a device gets the lowest index that is free, also one that was in use") {
  auto devices = three();
  CHECK(devices.lowest_free() == 3);
  devices.remove(1);
  devices.remove(0);
  CHECK(devices.lowest_free() == 0);
  devices.add(0, "d");
  CHECK(devices.lowest_free() == 1);
  devices.add(1, "e");
  CHECK(devices.lowest_free() == 3);
  CHECK(devices.find(1)->address == "e");
}

TEST_CASE("there are as many devices as indexes") {
  OwnDevices devices;
  for (unsigned index = 0; index < 65536; ++index) devices.add(*devices.lowest_free(), std::to_string(index));
  CHECK_FALSE(devices.lowest_free());
  devices.remove(65535);
  CHECK(devices.lowest_free() == 65535);
}

TEST_CASE("an address leads to its device as long as that is there") {
  auto devices = three();
  CHECK(devices.by_address("b") == 1);
  devices.remove(1);
  CHECK_FALSE(devices.by_address("b"));
  CHECK(devices.find(1) == nullptr);
  devices.remove(1); // again
  devices.add(7, "b");
  CHECK(devices.by_address("b") == 7);
}

TEST_CASE("a device is in the IOMMU group that it was last seen in") {
  using Members = std::set<OwnDevices::Index>;
  auto devices = three();
  devices.identify(0, in_group(5));
  devices.identify(1, in_group(5));
  CHECK(devices.in_group(5) == Members{0, 1});
  devices.identify(0, in_group(6));
  devices.identify(1, {});
  CHECK(devices.in_group(5).empty());
  CHECK(devices.in_group(6) == Members{0});
  devices.remove(0);
  CHECK(devices.in_group(6).empty());
}

TEST_CASE("who has something of a node is known until it ends") {
  const NodeId four{4}, five{5};
  auto devices = three();
  devices.grant(0, 1, {.borrower = four, .shared = true});
  devices.grant(0, 2, {.borrower = five, .shared = true});
  devices.grant(2, 3, {.borrower = four, .shared = false});
  CHECK(devices.lent_to(four) == OwnDevices::Lent{{0, 1}, {2, 3}});
  CHECK(devices.find(0)->shares.size() == 2);
  CHECK(devices.end_of(0, 1)->borrower == four);
  CHECK_FALSE(devices.end_of(0, 1));
  CHECK(devices.lent_to(four) == OwnDevices::Lent{{2, 3}});
  CHECK(devices.any_lent());
  CHECK(devices.end_of(2, 3));
  CHECK(devices.end_of(0, 2));
  CHECK(devices.lent_to(four).empty());
  CHECK_FALSE(devices.any_lent());
}

TEST_CASE(
    "of two devices with one address, as a file edited by hand may have them, the first is found, and each can go") {
  auto devices = three();
  devices.add(9, "a");
  CHECK(devices.by_address("a") == 0);
  devices.remove(9);
  CHECK(devices.by_address("a") == 0);
}
