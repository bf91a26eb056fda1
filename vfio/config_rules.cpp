#include "config_rules.hpp"

#include "capabilities.hpp"

#include <algorithm>

namespace smartio::vfio {
namespace {

// PCI Local Bus 3.0, 6.1 and 6.2
constexpr std::size_t command = 0x04, cache_line_size = 0x0c, latency_timer = 0x0d, header_type = 0x0e, bars = 0x10,
                      rom_bar = 0x30, interrupt_line = 0x3c;
constexpr std::uint32_t bus_master = 1 << 2, interrupt_disable = 1 << 10;
constexpr std::size_t bar_count = 6;

// PCI Express 5.0, 7.5.3.4
constexpr std::size_t device_control = 8;
constexpr std::uint32_t relaxed_ordering = 1 << 4, no_snoop = 1 << 11, max_read_request = 7 << 12;

} // namespace

void ConfigRules::allow(std::size_t offset, std::uint32_t bits, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) writable_[offset + i] |= static_cast<std::byte>(bits >> (8 * i));
}

ConfigRules ConfigRules::parse(std::span<const std::byte> config) {
  ConfigRules rules(config.size());
  if (config.size() < 256 || (config[header_type] & std::byte{0x7f}) != std::byte{0}) return rules;
  rules.allow(command, bus_master | interrupt_disable, 2);
  rules.allow(cache_line_size, 0xff, 1);
  rules.allow(latency_timer, 0xff, 1);
  rules.allow(interrupt_line, 0xff, 1);
  for (std::size_t bar = 0; bar < bar_count; ++bar) rules.allow(bars + 4 * bar, UINT32_MAX, 4);
  rules.allow(rom_bar, UINT32_MAX, 4);
  if (const auto express = find_capability(config, capability::pci_express))
    rules.allow(express->offset + device_control, relaxed_ordering | no_snoop | max_read_request, 2);
  return rules;
}

std::vector<ConfigRules::Write> ConfigRules::allowed(std::uint64_t offset, std::span<const std::byte> data,
                                                     std::span<const std::byte> current) const {
  std::vector<Write> writes;
  if (offset >= writable_.size()) return writes;
  const auto count = std::min({data.size(), current.size(), writable_.size() - offset});
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = writable_[offset + i];
    if (bits == std::byte{0}) continue;
    if (writes.empty() || writes.back().offset + writes.back().data.size() != offset + i)
      writes.push_back({offset + i, {}});
    writes.back().data.push_back((data[i] & bits) | (current[i] & ~bits));
  }
  return writes;
}

} // namespace smartio::vfio
