#include "config_space.hpp"

#include <algorithm>
#include <linux/pci_regs.h>

namespace smartio::sim {

namespace {

constexpr std::size_t bar0 = PCI_BASE_ADDRESS_0, bars_end = PCI_CARDBUS_CIS;
constexpr std::uint8_t initiate_flr_high = PCI_EXP_DEVCTL_BCR_FLR >> 8,
                       intx_disable_high = PCI_COMMAND_INTX_DISABLE >> 8;

} // namespace

void ConfigSpace::put(std::size_t offset, std::uint32_t value, std::size_t width, std::uint32_t writable) {
  for (std::size_t i = 0; i < width; ++i) {
    bytes_[offset + i] = initial_[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
    writable_[offset + i] = static_cast<std::uint8_t>(writable >> (8 * i));
  }
}

void ConfigSpace::put_header(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code,
                             std::size_t capabilities) {
  put(PCI_VENDOR_ID, vendor, 2);
  put(PCI_DEVICE_ID, device, 2);
  put(PCI_COMMAND, 0, 2,
      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
  put(PCI_STATUS, PCI_STATUS_CAP_LIST, 2);
  put(PCI_CLASS_PROG, class_code, 3);
  put(PCI_CACHE_LINE_SIZE, 0, 1, 0xff);
  put(PCI_SUBSYSTEM_VENDOR_ID, vendor, 2);
  put(PCI_CAPABILITY_LIST, static_cast<std::uint32_t>(capabilities), 1);
  put(PCI_INTERRUPT_LINE, 0, 1, 0xff);
}

void ConfigSpace::put_bar(unsigned index, std::uint64_t bytes, bool prefetchable) {
  const std::uint64_t writable = ~(bytes - 1);
  const std::uint32_t kind = PCI_BASE_ADDRESS_MEM_TYPE_64 | (prefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0);
  put(bar0 + 4 * index, kind, 4, static_cast<std::uint32_t>(writable));
  put(bar0 + 4 * index + 4, 0, 4, static_cast<std::uint32_t>(writable >> 32));
}

void ConfigSpace::put_capability(std::size_t at, std::uint8_t id, std::size_t next) {
  put(at + PCI_CAP_LIST_ID, id, 1);
  put(at + PCI_CAP_LIST_NEXT, static_cast<std::uint32_t>(next), 1);
}

void ConfigSpace::put_power_management(std::size_t at, std::size_t next) {
  put_capability(at, PCI_CAP_ID_PM, next);
  put(at + PCI_PM_PMC, 3, 2); // version 1.2
  put(at + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET, 2, PCI_PM_CTRL_STATE_MASK);
}

void ConfigSpace::put_msix(std::size_t at, std::size_t next, unsigned vectors, std::uint32_t table,
                           std::uint32_t pending) {
  put_capability(at, PCI_CAP_ID_MSIX, next);
  put(at + PCI_MSIX_FLAGS, vectors - 1, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
  put(at + PCI_MSIX_TABLE, table, 4);
  put(at + PCI_MSIX_PBA, pending, 4);
}

void ConfigSpace::put_express(std::size_t at, std::uint32_t device, std::uint32_t link, std::uint16_t link_status) {
  constexpr std::uint32_t after_reset =
      PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B;
  constexpr std::uint32_t absent = PCI_EXP_DEVCTL_EXT_TAG | PCI_EXP_DEVCTL_PHANTOM | PCI_EXP_DEVCTL_AUX_PME;
  put_capability(at, PCI_CAP_ID_EXP, 0);
  put(at + PCI_EXP_FLAGS, 2, 2); // version 2
  put(at + PCI_EXP_DEVCAP, device, 4);
  put(at + PCI_EXP_DEVCTL, after_reset, 2, 0x7fff & ~absent);
  put(at + PCI_EXP_LNKCAP, link, 4);
  put(at + PCI_EXP_LNKCTL, 0, 2, 0x01fb);
  put(at + PCI_EXP_LNKSTA, link_status, 2);
}

void ConfigSpace::show(std::size_t offset, std::uint16_t value) {
  bytes_[offset] = static_cast<std::uint8_t>(value);
  bytes_[offset + 1] = static_cast<std::uint8_t>(value >> 8);
}

void ConfigSpace::read(std::uint64_t offset, std::span<std::byte> data) const {
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(bytes_[offset + i]);
}

bool ConfigSpace::write(std::uint64_t offset, std::span<const std::byte> data) {
  bool reset_wanted = false;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::size_t at = offset + i;
    const auto value = static_cast<std::uint8_t>(data[i]);
    if (at == device_control_ + 1 && (value & initiate_flr_high) != 0) reset_wanted = true;
    bytes_[at] = static_cast<std::uint8_t>((bytes_[at] & ~writable_[at]) | (value & writable_[at]));
  }
  return reset_wanted;
}

bool ConfigSpace::bus_master() const { return (bytes_[PCI_COMMAND] & PCI_COMMAND_MASTER) != 0; }
bool ConfigSpace::intx_disabled() const { return (bytes_[PCI_COMMAND + 1] & intx_disable_high) != 0; }

void ConfigSpace::show_line(bool asserted) {
  const auto others = bytes_[PCI_STATUS] & ~PCI_STATUS_INTERRUPT;
  bytes_[PCI_STATUS] = static_cast<std::uint8_t>(others | (asserted ? PCI_STATUS_INTERRUPT : 0));
}

std::uint64_t ConfigSpace::bar_address(unsigned index) const {
  std::uint64_t address = 0;
  for (std::size_t i = 0; i < 8; ++i) address |= std::uint64_t{bytes_[bar0 + 4 * index + i]} << (8 * i);
  return address & ~std::uint64_t{0xf};
}

void ConfigSpace::reset() { bytes_ = initial_; }

void ConfigSpace::function_level_reset() {
  std::array<std::uint8_t, bars_end - bar0> bars{};
  std::copy_n(bytes_.begin() + bar0, bars.size(), bars.begin());
  reset();
  std::copy(bars.begin(), bars.end(), bytes_.begin() + bar0);
}

} // namespace smartio::sim
