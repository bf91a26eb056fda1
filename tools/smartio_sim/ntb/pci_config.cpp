#include "pci_config.hpp"

#include <bit>
#include <linux/pci_regs.h>

namespace smartio::sim::ntb {

namespace {

// See chip.hpp.
constexpr std::size_t position = 0xd4, link_status_at = 0x1a2;

/// Where PCI Express (whose Device Control Linux expects there), Power Management and MSI-X are.
struct Places {
  std::uint8_t express, power_management, msix, bar_sizes;
};
constexpr Places places_of(const Chip& chip) {
  return chip.generation == 3 ? Places{0x90, 0x40, 0x50, 0xd0} : Places{0x40, 0x80, 0x90, 0xc4};
}

} // namespace

PciConfig::PciConfig(const Chip& chip, Side side, std::uint64_t window_bytes)
    : ConfigSpace(places_of(chip).express + std::size_t{PCI_EXP_DEVCTL}), has_link_(chip.generation == 3) {
  const auto [express, power_management, msix, bar_sizes] = places_of(chip);
  put_header(0x8086, chip.device, 0x068000, power_management); // bridge, other
  put(PCI_REVISION_ID, chip.revision, 1);
  put_bar(0, register_bytes, false);
  put_bar(2, window_bytes, true);
  put_bar(4, window_bytes, true);
  put_power_management(power_management, msix);
  put_msix(msix, express, vectors, msix_table_offset, msix_pba_offset);
  // Function level reset, role-based error reporting, 256 bytes; 8 GT/s, sixteen lanes.
  put_express(express, PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_RBER | 1, 0x503, 0x103);

  const auto size_bits = static_cast<std::uint32_t>(std::countr_zero(window_bytes));
  for (std::size_t i = 0; i < 4; ++i) put(bar_sizes + i, size_bits, 1);
  if (chip.generation == 3) put(position, side == Side::a ? chip.position_of_a : chip.position_of_b, 1);
}

void PciConfig::show_link(std::uint16_t value) {
  if (has_link_) show(link_status_at, value);
}

} // namespace smartio::sim::ntb
