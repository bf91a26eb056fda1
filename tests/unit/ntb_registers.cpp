// The simulated bridge's registers: what drivers find there, what sticks, what a reset leaves, and the link.
#include "ntb_pair.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::testing;
namespace offset = ntb::register_offset;

namespace {

constexpr std::uint64_t link_status_bit = std::uint64_t{1} << 32;

} // namespace

TEST_CASE("each model is what Linux's driver looks for") {
  const auto identity = [](const char* chip) {
    NtbPair pair(chip, false);
    CHECK(pair.a.read(vfio::config_region, 0x00, 2) == 0x8086);
    CHECK(pair.a.read(vfio::config_region, 0x09, 3) == 0x068000);
    return std::pair(pair.a.read(vfio::config_region, 0x02, 2), pair.a.read(vfio::config_region, 0x08, 1));
  };
  CHECK(identity("gen4") == std::pair<std::uint64_t, std::uint64_t>(0x347e, 0x04)); // 2 to f: Ice Lake
  CHECK(identity("gen4-spr") == std::pair<std::uint64_t, std::uint64_t>(0x347e, 0x10));
  CHECK(identity("gen5").first == 0x0db4);
  CHECK(identity("gen3").first == 0x201c);
  CHECK(ntb::find_chip("gen6") == nullptr);
}

TEST_CASE("the two ends say that they are upstream and downstream, back to back") {
  NtbPair ice_lake("gen4", false), sapphire_rapids("gen4-spr", false), skylake("gen3", false);
  CHECK(ice_lake.a.reg(offset::ppd1) == 0x0200);
  CHECK(ice_lake.b.reg(offset::ppd1) == 0x1200);
  CHECK(sapphire_rapids.a.reg(offset::ppd1) == 0x0200);
  CHECK(sapphire_rapids.b.reg(offset::ppd1) == 0x4200);
  CHECK(skylake.a.read(vfio::config_region, 0xd4, 1) == 0x01);
  CHECK(skylake.b.read(vfio::config_region, 0xd4, 1) == 0x11);
}

TEST_CASE("BAR 0 has 64 KiB, BAR 2 and BAR 4 the windows' size, prefetchable and of 64 bits; nothing can be mapped") {
  NtbPair pair(any_chip(), false);
  const auto region = [&pair](std::uint32_t index) {
    return std::get<vfio::RegionInfo>(pair.a.request(vfio::GetRegionInfo{index}).value());
  };
  CHECK(region(0).size == 0x10000);
  for (const std::uint32_t bar : {2U, 4U}) {
    CHECK(region(bar).size == NtbHost::window_bytes);
    CHECK((region(bar).flags & vfio::region_flag_mmap) == 0);
    pair.a.write(vfio::config_region, 0x10 + 4 * bar, 8, UINT64_MAX);
    CHECK(pair.a.read(vfio::config_region, 0x10 + 4 * bar, 8) == (~(NtbHost::window_bytes - 1) | 0xc));
  }
  CHECK(region(1).size == 0);
  CHECK(region(vfio::config_region).size == 4096);
  CHECK(std::get<vfio::IrqInfo>(pair.a.request(vfio::GetIrqInfo{vfio::msix}).value()).count == 33);
  CHECK(std::get<vfio::IrqInfo>(pair.a.request(vfio::GetIrqInfo{vfio::intx}).value()).count == 0);
}

TEST_CASE("registers take every width, and keep what may be written") {
  NtbPair pair(any_chip(), false);
  pair.a.set_reg(offset::translation_base, 0x123456789abc0000, 8);
  CHECK(pair.a.reg(offset::translation_base, 8) == 0x123456789abc0000);
  CHECK(pair.a.reg(offset::translation_base + 4, 4) == 0x12345678);
  CHECK(pair.a.reg(offset::translation_base + 2, 2) == 0x9abc);
  pair.a.set_reg(offset::translation_base + 7, 0x55, 1);
  CHECK(pair.a.reg(offset::translation_base, 8) == 0x553456789abc0000);
  pair.a.set_reg(offset::limit + 0x10, 0x4000000000000000, 8);
  CHECK(pair.a.reg(offset::limit + 0x10, 8) == 0x4000000000000000);
  pair.a.set_reg(offset::interrupt_disable, UINT64_MAX, 8);
  CHECK(pair.a.reg(offset::interrupt_disable, 8) == 0x1ffffffff);
}

TEST_CASE("a translation base is aligned to the BAR, on Sapphire Rapids to 4 KiB; a limit always to 4 KiB") {
  const char* chip = any_chip();
  NtbPair pair(chip, false);
  const bool in_pages = std::string_view(chip) == "gen4-spr" || std::string_view(chip) == "gen5";
  const std::uint64_t kept = in_pages ? 0x12345000 : 0x12340000;
  pair.a.set_reg(offset::translation_base, 0x12345678, 8);
  CHECK(pair.a.reg(offset::translation_base, 8) == kept);
  pair.a.set_reg(offset::limit, 0x12345678, 8);
  CHECK(pair.a.reg(offset::limit, 8) == 0x12345000);
}

TEST_CASE("Ice Lake keeps the windows' sizes as powers of two, Sapphire Rapids does not") {
  const bool ice_lake = GENERATE(true, false);
  NtbPair pair(ice_lake ? "gen4" : "gen4-spr", false);
  pair.a.set_reg(offset::base_index, 21, 2);
  pair.a.set_reg(offset::base_index + 2, 12, 2);
  CHECK(pair.a.reg(offset::base_index, 2) == (ice_lake ? 21 : 0));
  CHECK(pair.a.reg(offset::base_index + 2, 2) == (ice_lake ? 12 : 0));
}

TEST_CASE("after power-on the link's event has vector 0 and doorbell i has vector i + 1") {
  NtbPair pair(any_chip(), false);
  const auto map = pair.bridge.chip().vector_map;
  CHECK(pair.a.reg(map, 1) == 1);
  CHECK(pair.a.reg(map + 31, 1) == 32);
  CHECK(pair.a.reg(map + 32, 1) == 0);
}

TEST_CASE("accesses outside of a region are refused") {
  NtbPair pair(any_chip());
  for (const std::uint32_t region : {0U, 2U, 4U}) {
    const std::uint64_t size = region == 0 ? 0x10000 : NtbHost::window_bytes;
    CHECK(pair.a.request(vfio::RegionRead{region, size - 3, 4}).error() == EINVAL);
    CHECK(pair.a.request(vfio::RegionWrite{region, size, Bytes(1)}).error() == EINVAL);
    CHECK(pair.a.request(vfio::RegionRead{region, UINT64_MAX, 4}).error() == EINVAL);
  }
  CHECK(pair.a.request(vfio::RegionRead{1, 0, 4}).error() == EINVAL);
  CHECK(pair.a.request(vfio::RegionRead{vfio::config_region, 4094, 4}).error() == EINVAL);
}

TEST_CASE("the link is up while both ends want it, and each change is an event at both") {
  NtbPair pair(any_chip(), false);
  CHECK_FALSE(pair.a.link_up());
  pair.a.want_link(true);
  CHECK_FALSE(pair.a.link_up());
  pair.b.want_link(true);
  for (auto* host : {&pair.a, &pair.b}) {
    CHECK(host->link_up());
    CHECK(host->reg(offset::interrupt_status, 8) == link_status_bit);
    if (pair.bridge.chip().generation == 4) host->set_reg(offset::slot_status, 0x100, 2);
    host->set_reg(offset::interrupt_status, link_status_bit, 8);
    CHECK(host->reg(offset::interrupt_status, 8) == 0);
  }
  pair.a.want_link(false);
  for (auto* host : {&pair.a, &pair.b}) {
    CHECK_FALSE(host->link_up());
    CHECK(host->reg(offset::interrupt_status, 8) == link_status_bit);
  }
  CHECK(pair.bridge.link_changes() == 2);
}

TEST_CASE("generation 4 keeps the link's event until the slot's record of it is cleared") {
  NtbPair pair("gen4");
  pair.a.set_reg(offset::interrupt_status, link_status_bit, 8);
  CHECK(pair.a.reg(offset::interrupt_status, 8) == link_status_bit);
  pair.a.set_reg(offset::slot_status, 0x100, 2);
  CHECK(pair.a.reg(offset::slot_status, 2) == 0);
  pair.a.set_reg(offset::interrupt_status, link_status_bit, 8);
  CHECK(pair.a.reg(offset::interrupt_status, 8) == 0);
}

TEST_CASE("with training the link comes up when that is done, unless an end has given it up meanwhile") {
  int trainings = 0;
  ntb::Bridge bridge(*ntb::find_chip("gen4"), NtbHost::window_bytes, [&trainings] { ++trainings; });
  NtbHost a(bridge, Side::a), b(bridge, Side::b);
  a.want_link(true);
  bridge.trained(); // nobody asked
  b.want_link(true);
  CHECK(trainings == 1);
  CHECK_FALSE(a.link_up());
  a.want_link(false);
  bridge.trained();
  CHECK_FALSE(b.link_up());
  a.want_link(true);
  CHECK(trainings == 2);
  bridge.trained();
  CHECK(a.link_up());
  CHECK(b.link_up());
}

TEST_CASE("a function level reset takes the link down and clears the registers, but leaves the BARs") {
  NtbPair pair(any_chip());
  pair.a.open_window(0, NtbHost::memory_at);
  pair.a.set_reg(offset::scratchpads, 7);
  const std::uint64_t control = pair.bridge.chip().generation == 3 ? 0x98 : 0x48; // PCI Express Device Control
  pair.a.write(vfio::config_region, control, 2, 0x8000);
  CHECK(pair.a.read(vfio::config_region, 0x18, 8) == (NtbHost::bar2_at | 0xc));
  CHECK(pair.a.read(vfio::config_region, 0x04, 2) == 0);
  CHECK(pair.a.read(vfio::config_region, control, 2) == 0x2810);
  CHECK(pair.a.reg(offset::translation_base, 8) == 0);
  CHECK(pair.a.reg(offset::scratchpads) == 0);
  CHECK(pair.a.reg(offset::interrupt_status, 8) == 0);
  CHECK_FALSE(pair.a.link_up());
  CHECK_FALSE(pair.b.link_up());
  CHECK(pair.b.reg(offset::interrupt_status, 8) == link_status_bit);
}

TEST_CASE("a device reset clears the BARs too; DMA windows stay") {
  NtbPair pair(any_chip());
  REQUIRE(pair.a.request(vfio::Reset{}));
  CHECK(pair.a.read(vfio::config_region, 0x18, 8) == 0xc);
  CHECK(pair.a.reg(offset::interrupt_status, 8) == 0);
  CHECK_FALSE(pair.b.link_up());
  CHECK(pair.bridge.memory_windows(Side::a) == 1);
  CHECK(pair.bridge.counters(Side::a).resets == 1);
}

TEST_CASE("the MSI-X table is storage; after a reset all vectors are masked") {
  NtbPair pair(any_chip());
  pair.a.set_reg(ntb::msix_table_offset + 32 * 16, 0x1122334455667788, 8);
  CHECK(pair.a.reg(ntb::msix_table_offset + 32 * 16, 8) == 0x1122334455667788);
  pair.a.set_reg(ntb::msix_table_offset + 12, 0);
  REQUIRE(pair.a.request(vfio::Reset{}));
  CHECK(pair.a.reg(ntb::msix_table_offset + 12) == 1);
  CHECK(pair.a.reg(ntb::msix_table_offset + 32 * 16, 8) == 0);
}

TEST_CASE("a host that goes leaves ENODEV, and a fresh function to the next") {
  NtbPair pair(any_chip());
  pair.a.set_reg(offset::scratchpads, 7);
  const auto old = pair.a.device;
  pair.bridge.detach(Side::a);
  CHECK_FALSE(pair.b.link_up());
  CHECK(pair.a.request(vfio::RegionRead{0, 0, 4}).error() == ENODEV);
  pair.a.attach();
  CHECK(pair.a.device != old);
  CHECK(pair.a.reg(offset::scratchpads) == 0);
  pair.a.want_link(true);
  CHECK(pair.b.link_up());
}
