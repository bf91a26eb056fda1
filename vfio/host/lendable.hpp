// Whether a function may be lent at all, and what its IOMMU group says to that.
#pragma once

#include "pci.hpp"

#include <set>
#include <string>
#include <vector>

namespace smartio::vfio::host {

/// Errc::not_permitted with the reason: a bridge, no IOMMU group, no interrupt remapping, no reset method.
///
/// Interrupt remapping shows in the names of interrupt chips ("IR-IO-APIC" on x86). Where those say nothing (other
/// architectures), VFIO itself refuses the IOMMU later, with EPERM, unless the module parameter allow_unsafe_interrupts
/// tells it not to; so then that parameter is the refusal. Not known here: whether the IOMMU driver works, whether a
/// reset succeeds, and what ACS overrides on the kernel command line hide.
Result<void> check_lendable(const Root& root, const Function& function);

/// The other functions of the group that stand in the way, a sentence each: those not in `added` ("05:00.1
/// (snd_hda_intel) shares IOMMU group 14: add it too"), and bridges with a driver that VFIO
/// does not tolerate ("03:00.0 (shpchp) shares IOMMU group 14: unbind that driver"). A companion needs no reset: nobody
/// drives it until it is lent itself. Whether they are in use is in_use.hpp's business.
std::vector<std::string> group_conflicts(const Root& root, const Function& function, const std::set<Bdf>& added);

} // namespace smartio::vfio::host
