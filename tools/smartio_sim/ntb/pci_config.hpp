// PCI configuration space of one end of the bridge: identity, the BARs, the Power Management, MSI-X and PCI Express
// capabilities, and what generation 3 keeps there: position, BAR sizes and the link's status.
#pragma once

#include "chip.hpp"
#include "pci/config_space.hpp"

namespace smartio::sim::ntb {

class PciConfig : public ConfigSpace {
public:
  PciConfig(const Chip& chip, Side side, std::uint64_t window_bytes);
  void show_link(std::uint16_t status); ///< nothing where BAR 0 has that register

private:
  bool has_link_;
};

} // namespace smartio::sim::ntb
