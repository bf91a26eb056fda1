#include "config_rules.hpp"

#include "capabilities.hpp"

#include <algorithm>
#include <linux/pci_regs.h>

namespace smartio::vfio {
namespace {

constexpr std::size_t bar_count = 6;

} // namespace

void ConfigRules::allow(std::size_t offset, std::uint32_t bits, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) writable_[offset + i] |= static_cast<std::byte>(bits >> (8 * i));
}

ConfigRules ConfigRules::parse(std::span<const std::byte> config) {
  ConfigRules rules(config.size());
  if (config.size() < 256 || (config[PCI_HEADER_TYPE] & std::byte{0x7f}) != std::byte{0}) return rules;
  rules.allow(PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE, 2);
  rules.allow(PCI_CACHE_LINE_SIZE, 0xff, 1);
  rules.allow(PCI_LATENCY_TIMER, 0xff, 1);
  rules.allow(PCI_INTERRUPT_LINE, 0xff, 1);
  for (std::size_t bar = 0; bar < bar_count; ++bar) rules.allow(PCI_BASE_ADDRESS_0 + 4 * bar, UINT32_MAX, 4);
  rules.allow(PCI_ROM_ADDRESS, UINT32_MAX, 4);
  if (const auto express = find_capability(config, capability::pci_express))
    rules.allow(express->offset + std::size_t{PCI_EXP_DEVCTL},
                PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ, 2);
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
