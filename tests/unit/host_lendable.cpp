// What may be lent, and what a group says to it.
#include "host/lendable.hpp"

#include "catch.hpp"
#include "checks.hpp"
#include "fixture_tree.hpp"

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;
using Sentences = std::vector<std::string>;

namespace {

/// Why 06:00.0 may not be lent; "" if it may.
std::string refusal(const Tree& tree) {
  const auto result = check_lendable(tree.root(), function(tree));
  if (result) return "";
  CHECK(fails_with(result, Errc::not_permitted));
  return result.error().context;
}

Tree& with_remapping(Tree& tree) {
  tree.file("sys/kernel/irq/0/chip_name", "IR-IO-APIC\n");
  tree.file("sys/kernel/irq/24/chip_name", "DMAR-MSI\n");
  return tree;
}

Sentences conflicts(const Tree& tree, const std::set<Bdf>& added) {
  return group_conflicts(tree.root(), function(tree, "0000:05:00.0"), added);
}

/// The seed's graphics card and its sound, in one group with the port they are behind.
void add_graphics_card(const Tree& tree) {
  add_function(tree, {.bdf = "0000:05:00.0", .driver = "", .class_code = "0x030000"});
  add_function(tree, {.bdf = "0000:05:00.1", .driver = "snd_hda_intel", .class_code = "0x040300"});
  add_function(tree, {.bdf = "0000:00:01.0", .driver = "pcieport", .class_code = "0x060400"});
}

const Bdf sound = *parse_bdf("0000:05:00.1");

} // namespace

TEST_CASE("an endpoint with a group, a reset and remapped interrupts may be lent") {
  Tree tree;
  add_function(with_remapping(tree), {});
  CHECK(refusal(tree).empty());
}

TEST_CASE("a bridge may not be lent") {
  Tree tree;
  add_function(with_remapping(tree), {.driver = "pcieport", .class_code = "0x060400"});
  CHECK(refusal(tree) == "06:00.0 is a bridge; only endpoints can be lent.");
}

TEST_CASE("one end of a non-transparent bridge is an endpoint") {
  Tree tree;
  add_function(with_remapping(tree), {.class_code = "0x068000"});
  CHECK(refusal(tree).empty());
}

TEST_CASE("without an IOMMU group nothing may be lent, and the remedy is named") {
  Tree tree;
  add_function(with_remapping(tree), {});
  tree.remove(devices("0000:06:00.0") + "iommu_group");
  CHECK(refusal(tree).find("intel_iommu=on") != std::string::npos);
}

TEST_CASE("a group that only VFIO made up isolates nothing") {
  Tree tree;
  add_function(with_remapping(tree), {});
  tree.file("sys/kernel/iommu_groups/14/name", "vfio-noiommu\n");
  CHECK(refusal(tree).find("vfio-noiommu") != std::string::npos);
}

TEST_CASE("without interrupt remapping nothing may be lent, whatever VFIO was told to allow") {
  Tree tree;
  add_function(tree, {});
  tree.file("sys/kernel/irq/0/chip_name", "IO-APIC\n");
  tree.file("sys/kernel/irq/24/chip_name", "PCI-MSI\n");
  CHECK(refusal(tree).find("not remapped") != std::string::npos);
  tree.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
  CHECK(refusal(tree).find("not remapped") != std::string::npos);
}

TEST_CASE("where interrupts say nothing VFIO decides, unless it was told not to") {
  Tree tree;
  add_function(tree, {});
  tree.file("sys/kernel/irq/24/chip_name", "ITS-PCI-MSI\n");
  CHECK(refusal(tree).empty());
  tree.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
  CHECK(refusal(tree).empty());
  tree.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
  CHECK(refusal(tree).find("allow_unsafe_interrupts=Y") != std::string::npos);
}

TEST_CASE("a function without a reset may not be lent") {
  Tree tree;
  add_function(with_remapping(tree), {});
  tree.file(devices("0000:06:00.0") + "reset_method", "\n");
  CHECK(refusal(tree).starts_with("06:00.0 has no reset method"));
}

TEST_CASE("a companion in the group has to be added; a port does not") {
  Tree tree;
  add_graphics_card(with_remapping(tree));
  CHECK(conflicts(tree, {}) == Sentences{"05:00.1 (snd_hda_intel) shares IOMMU group 14: add it too"});
  CHECK(conflicts(tree, {sound}).empty());
}

TEST_CASE("a companion without a driver has to be added too; a bridge without one does not") {
  Tree tree;
  add_graphics_card(with_remapping(tree));
  add_function(tree, {.bdf = "0000:05:00.2", .driver = "", .class_code = "0x0c0330"});
  add_function(tree, {.bdf = "0000:05:00.3", .driver = "", .class_code = "0x060100"});
  CHECK(conflicts(tree, {sound}) == Sentences{"05:00.2 (no driver) shares IOMMU group 14: add it too"});
  add_function(tree, {.bdf = "0000:05:00.3", .driver = "lpc_ich", .class_code = "0x060100"});
  CHECK(conflicts(tree, {sound}).size() == 2);
}

TEST_CASE("a bridge keeps no driver but pcieport, and the one it has is named") {
  Tree tree;
  add_graphics_card(with_remapping(tree));
  add_function(tree, {.bdf = "0000:00:01.0", .driver = "shpchp", .class_code = "0x060400"});
  CHECK(conflicts(tree, {sound}) == Sentences{"00:01.0 (shpchp) shares IOMMU group 14: unbind that driver"});
}

TEST_CASE("a companion that may not be lent itself does not stand in the way") {
  Tree tree;
  add_graphics_card(with_remapping(tree));
  tree.file(devices("0000:05:00.1") + "reset_method", "");
  CHECK(conflicts(tree, {sound}).empty());
}

TEST_CASE("a conflict is one line, whatever the driver is named") {
  Tree tree;
  add_graphics_card(with_remapping(tree));
  tree.link(devices("0000:05:00.1") + "driver", "sys/bus/pci/drivers/a\nb");
  CHECK(conflicts(tree, {}) == Sentences{"05:00.1 (a?b) shares IOMMU group 14: add it too"});
}
