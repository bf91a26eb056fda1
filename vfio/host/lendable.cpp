#include "lendable.hpp"

#include "result.hpp"
#include "text.hpp"

#include <algorithm>

namespace smartio::vfio::host {
namespace {

enum class Remapping { on, off, unknown };

/// The chips of x86's interrupts are "IO-APIC", "PCI-MSI" and so on, with "IR-" in front when they are remapped
/// (drivers/iommu/{intel,amd}). /proc/interrupts has the same names, but only of interrupts in use on a running CPU.
Remapping interrupt_remapping(const Root& root) {
  auto found = Remapping::unknown;
  const auto folder = root.sys + "/kernel/irq/";
  for (const auto& interrupt : list(folder)) {
    const auto chip = read_text(folder + interrupt + "/chip_name").value_or("");
    if (chip.starts_with("IR-")) return Remapping::on;
    if (chip == "IO-APIC") found = Remapping::off;
  }
  return found;
}

bool allows_unsafe_interrupts(const Root& root) {
  return read_text(root.sys + "/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts") == "Y";
}

Result<void> check_group(const Root& root, const Function& function) {
  const auto name = short_name(function.bdf);
  if (!function.iommu_group)
    return fail(Errc::not_permitted,
                "{} has no IOMMU group: turn the IOMMU on, in the firmware (VT-d, AMD-Vi) and, for Intel's, with "
                "intel_iommu=on on the kernel command line.",
                name);
  const auto kind = read_text(fmt::format("{}/kernel/iommu_groups/{}/name", root.sys, *function.iommu_group));
  if (kind == "vfio-noiommu")
    return fail(Errc::not_permitted, "{} is bound without an IOMMU (vfio-noiommu); that isolates nothing.", name);
  return {};
}

Result<void> check_interrupts(const Root& root, const Function& function) {
  const auto remapping = interrupt_remapping(root);
  const auto name = short_name(function.bdf);
  if (remapping == Remapping::off)
    return fail(Errc::not_permitted,
                "Interrupts are not remapped on this host, so {} could forge any: turn interrupt remapping on in the "
                "firmware, and remove intremap=off and nointremap from the kernel command line.",
                name);
  if (remapping == Remapping::unknown && allows_unsafe_interrupts(root))
    return fail(Errc::not_permitted,
                "Whether interrupts of {} are remapped cannot be known while vfio_iommu_type1 is told "
                "allow_unsafe_interrupts=Y: set it to N.",
                name);
  return {};
}

/// By VFIO, which lets a group's bridges keep only a driver that leaves DMA to others (driver_managed_dma of
/// linux/device/driver.h); of those for bridges that is pcieport.
bool tolerated(const Function& member) {
  return member.is_bridge() && (!member.driver || (member.is_pci_bridge() && member.driver == "pcieport"));
}

void find_conflict(const Function& member, bool added, std::vector<std::string>& conflicts) {
  const auto shares = fmt::format("{} ({}) shares IOMMU group {}", short_name(member.bdf),
                                  printable(member.driver.value_or("no driver")), *member.iommu_group);
  if (member.is_bridge())
    conflicts.push_back(shares + ": unbind that driver");
  else if (!added)
    conflicts.push_back(shares + ": add it too");
}

} // namespace

Result<void> check_lendable(const Root& root, const Function& function) {
  if (function.is_bridge())
    return fail(Errc::not_permitted, "{} is a bridge; only endpoints can be lent.", short_name(function.bdf));
  TRY(check_group(root, function));
  TRY(check_interrupts(root, function));
  if (function.reset_methods.empty())
    return fail(Errc::not_permitted, "{} has no reset method: what one borrower left in it would reach the next.",
                short_name(function.bdf));
  return {};
}

std::vector<std::string> group_conflicts(const Root& root, const Function& function, const std::set<Bdf>& added) {
  std::vector<std::string> conflicts;
  for (const auto& bdf : function.group_members) {
    if (bdf == function.bdf) continue;
    const auto member = read_function(root, bdf);
    if (!member)
      conflicts.push_back(member.error().context);
    else if (!tolerated(*member) && member->iommu_group)
      find_conflict(*member, added.contains(bdf), conflicts);
  }
  return conflicts;
}

} // namespace smartio::vfio::host
