#include "pci_config.hpp"

#include <bit>

namespace smartio::sim::ntb {

namespace {

// Offsets: PCI Local Bus 3.0 chapter 6, and for the rest see chip.hpp.
constexpr std::size_t command = 0x04, status = 0x06;
constexpr std::size_t position = 0xd4, link_status = 0x1a2;

/// Where PCI Express (whose Device Control Linux expects there), Power Management and MSI-X are.
struct Places {
  std::uint8_t express, power_management, msix, bar_sizes;
};
constexpr Places places_of(const Chip& chip) {
  return chip.generation == 3 ? Places{0x90, 0x40, 0x50, 0xd0} : Places{0x40, 0x80, 0x90, 0xc4};
}

} // namespace

PciConfig::PciConfig(const Chip& chip, Side side, std::uint64_t window_bytes)
    : ConfigSpace(places_of(chip).express + 8U), has_link_(chip.generation == 3) {
  const auto [express, power_management, msix, bar_sizes] = places_of(chip);
  put(0x00, 0x8086, 2);
  put(0x02, chip.device, 2);
  put(command, 0, 2, 0x0546); // memory space, bus master, parity, SERR, INTx disable
  put(status, 0x0010, 2);     // capability list
  put(0x08, chip.revision, 1);
  put(0x09, 0x068000, 3); // bridge, other
  put(0x0c, 0, 1, 0xff);  // cache line size
  put_bar(0, register_bytes, false);
  put_bar(2, window_bytes, true);
  put_bar(4, window_bytes, true);
  put(0x2c, 0x8086, 2);
  put(0x34, power_management, 1);
  put(0x3c, 0, 1, 0xff); // interrupt line

  put(power_management, 0x01U | std::uint32_t{msix} << 8, 2);
  put(power_management + 2U, 0x0003, 2);
  put(power_management + 4U, 0x0008, 2, 0x0003); // no soft reset; D0 and D3hot

  put(msix, 0x11U | std::uint32_t{express} << 8, 2);
  put(msix + 2U, vectors - 1, 2, 0xc000); // enable, function mask
  put(msix + 4U, msix_table_offset, 4);   // both in BAR 0
  put(msix + 8U, msix_pba_offset, 4);

  put(express, 0x10, 2);
  put(express + 0x02U, 0x0002, 2);                  // version 2, endpoint
  put(express + 0x04U, 0x10008001, 4);              // function level reset, role-based error reporting, 256 bytes
  put(express + 0x08U, 0x2810, 2, 0x7fff & ~0x700); // Initiate FLR reads as 0
  put(express + 0x0cU, 0x00000503, 4);              // 8 GT/s, sixteen lanes
  put(express + 0x10U, 0, 2, 0x01fb);
  put(express + 0x12U, 0x0103, 2);

  const auto size_bits = static_cast<std::uint32_t>(std::countr_zero(window_bytes));
  for (std::size_t i = 0; i < 4; ++i) put(bar_sizes + i, size_bits, 1);
  if (chip.generation == 3) put(position, side == Side::a ? chip.position_of_a : chip.position_of_b, 1);
}

void PciConfig::show_link(std::uint16_t value) {
  if (has_link_) show(link_status, value);
}

} // namespace smartio::sim::ntb
