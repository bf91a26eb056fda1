#include "config_space.hpp"

#include <algorithm>

namespace smartio::sim {

namespace {

// Offsets: PCI Local Bus 3.0 chapter 6; linux/pci_regs.h has the same names.
constexpr std::size_t command = 0x04, status = 0x06, bar0 = 0x10, bars_end = 0x28;
constexpr std::uint8_t bus_master_bit = 0x04, intx_disable_high = 0x04, interrupt_status_bit = 0x08;
constexpr std::uint8_t initiate_flr_high = 0x80;
constexpr std::uint32_t bar_64_bits = 0x4, bar_prefetchable = 0x8;

} // namespace

void ConfigSpace::put(std::size_t offset, std::uint32_t value, std::size_t width, std::uint32_t writable) {
  for (std::size_t i = 0; i < width; ++i) {
    bytes_[offset + i] = initial_[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
    writable_[offset + i] = static_cast<std::uint8_t>(writable >> (8 * i));
  }
}

void ConfigSpace::put_bar(unsigned index, std::uint64_t bytes, bool prefetchable) {
  const std::uint64_t writable = ~(bytes - 1);
  put(bar0 + 4 * index, bar_64_bits | (prefetchable ? bar_prefetchable : 0), 4, static_cast<std::uint32_t>(writable));
  put(bar0 + 4 * index + 4, 0, 4, static_cast<std::uint32_t>(writable >> 32));
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

bool ConfigSpace::bus_master() const { return (bytes_[command] & bus_master_bit) != 0; }
bool ConfigSpace::intx_disabled() const { return (bytes_[command + 1] & intx_disable_high) != 0; }

void ConfigSpace::show_line(bool asserted) {
  bytes_[status] =
      static_cast<std::uint8_t>((bytes_[status] & ~interrupt_status_bit) | (asserted ? interrupt_status_bit : 0));
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
