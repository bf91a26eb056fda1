#include "pci_config.hpp"

#include "spec.hpp"

namespace smartio::sim::nvme {

namespace {

// Offsets: PCI Local Bus 3.0 chapter 6; linux/pci_regs.h has the same names.
constexpr std::size_t command = 0x04, status = 0x06;
constexpr std::size_t power_management = 0x40, msix = 0x50, express = 0x60;
constexpr std::size_t device_control = express + 0x08;

} // namespace

PciConfig::PciConfig() : ConfigSpace(device_control) {
  put(0x00, vendor, 2);
  put(0x02, device, 2);
  put(command, 0, 2, 0x0546); // memory space, bus master, parity, SERR, INTx disable
  put(status, 0x0010, 2);     // capability list
  put(0x09, 0x010802, 3);     // non-volatile memory controller, NVM Express
  put(0x0c, 0, 1, 0xff);      // cache line size
  put_bar(0, bar_size, false);
  put(0x2c, vendor, 2);
  put(0x2e, device, 2);
  put(0x34, power_management, 1);
  put(0x3c, 0, 1, 0xff); // interrupt line
  put(0x3d, 1, 1);       // INTA

  put(power_management, 0x01 | msix << 8, 2);
  put(power_management + 2, 0x0003, 2);
  put(power_management + 4, 0x0008, 2, 0x0003); // no soft reset; D0 and D3hot

  put(msix, 0x11 | express << 8, 2);
  put(msix + 2, vectors - 1, 2, 0xc000); // enable, function mask
  put(msix + 4, msix_table_offset, 4);   // both in BAR 0
  put(msix + 8, msix_pba_offset, 4);

  put(express, 0x10, 2);
  put(express + 0x02, 0x0002, 2);                  // version 2, endpoint
  put(express + 0x04, 0x10008000, 4);              // function level reset, role-based error reporting
  put(device_control, 0x2810, 2, 0x7fff & ~0x700); // Initiate FLR reads as 0
  put(express + 0x0c, 0x00000443, 4);              // 8 GT/s, four lanes, L0s
  put(express + 0x10, 0, 2, 0x01fb);
  put(express + 0x12, 0x0043, 2);
  put(express + 0x24, 0x00000010, 4); // completion timeout disable
  put(express + 0x28, 0, 2, 0x0010);
  put(express + 0x2c, 0x0000000e, 4); // 2.5, 5 and 8 GT/s
  put(express + 0x30, 0x0003, 2, 0x000f);
}

} // namespace smartio::sim::nvme
