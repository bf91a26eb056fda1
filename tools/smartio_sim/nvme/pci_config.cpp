#include "pci_config.hpp"

#include <linux/pci_regs.h>

namespace smartio::sim::nvme {

namespace {

constexpr std::size_t power_management = 0x40, msix = 0x50, express = 0x60;

} // namespace

PciConfig::PciConfig(const Shape& shape) : ConfigSpace(express + PCI_EXP_DEVCTL) {
  put_header(vendor, device, 0x010802, power_management); // non-volatile memory controller, NVM Express
  put_bar(0, shape.bar_size(), false);
  put(PCI_SUBSYSTEM_ID, device, 2);
  put(PCI_INTERRUPT_PIN, 1, 1); // INTA
  const bool has_msix = shape.vectors != 0;
  put_power_management(power_management, has_msix ? msix : express);
  if (has_msix)
    put_msix(msix, express, shape.vectors, static_cast<std::uint32_t>(shape.msix_table()),
             static_cast<std::uint32_t>(shape.msix_pending()));
  // Function level reset, role-based error reporting; 8 GT/s, four lanes, L0s.
  put_express(express, PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_RBER, 0x443, 0x43);
  put(express + PCI_EXP_DEVCAP2, PCI_EXP_DEVCAP2_COMP_TMOUT_DIS, 4);
  put(express + PCI_EXP_DEVCTL2, 0, 2, PCI_EXP_DEVCTL2_COMP_TMOUT_DIS);
  put(express + PCI_EXP_LNKCAP2, 0x0000000e, 4); // 2.5, 5 and 8 GT/s
  put(express + PCI_EXP_LNKCTL2, 3, 2, PCI_EXP_LNKCTL2_TLS);
}

} // namespace smartio::sim::nvme
