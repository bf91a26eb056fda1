// PCI configuration space of the model: identity, BAR 0, and the Power Management, MSI-X and PCI Express capabilities.
// Identity: 1af4:10f0 is in the range Red Hat gives away for experiments without registration (QEMU's
// docs/specs/pci-ids). QEMU's own 1b36:0010 would make Linux apply workarounds for faults that are not ours.
#pragma once

#include "pci/config_space.hpp"
#include "shape.hpp"

namespace smartio::sim::nvme {

class PciConfig : public ConfigSpace {
public:
  static constexpr std::uint16_t vendor = 0x1af4, device = 0x10f0;

  explicit PciConfig(const Shape& shape);
};

} // namespace smartio::sim::nvme
