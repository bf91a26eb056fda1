// PCI configuration space of the model: identity, BAR 0, and the Power Management, MSI-X and PCI Express capabilities.
// Identity: 1af4:10f0 is in the range Red Hat gives away for experiments without registration (QEMU's
// docs/specs/pci-ids). QEMU's own 1b36:0010 would make Linux apply workarounds for faults that are not ours.
#pragma once

#include "pci/config_space.hpp"

namespace smartio::sim::nvme {

inline constexpr std::uint64_t bar_size = 0x4000;
inline constexpr std::uint32_t msix_table_offset = 0x2000, msix_pba_offset = 0x3000;

class PciConfig : public ConfigSpace {
public:
  static constexpr std::uint16_t vendor = 0x1af4, device = 0x10f0;

  PciConfig();
};

} // namespace smartio::sim::nvme
