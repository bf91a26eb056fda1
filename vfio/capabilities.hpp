// The lists of capabilities in a function's configuration space (PCI Local Bus 3.0, 6.7; PCI Express 5.0, 7.6.3). Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace smartio::vfio {

namespace capability { // capability IDs: PCI Code and ID Assignment 1.11, section 2
inline constexpr std::uint16_t pci_express = 0x10, msi_x = 0x11, serial_number = 0x03;
} // namespace capability

struct Capability {
  std::uint16_t id;
  std::uint16_t offset; ///< in bytes; at least 16 bytes of the configuration space follow
  bool extended;        ///< of the second list, which starts at 256
  bool operator==(const Capability&) const = default;
};

/// Both lists in their order. Configuration space comes from a device, so whatever it holds, the walk ends: links out
/// of range, and links back to what was seen, end a list.
std::vector<Capability> capabilities(std::span<const std::byte> config);

std::optional<Capability> find_capability(std::span<const std::byte> config, std::uint16_t id); ///< of the first list

/// Device Serial Number (PCI Express 5.0, 7.9.3) as lspci writes it: "00-11-22-33-44-55-66-77". nullopt: it has none,
/// or one of all zeros or all ones, which is none.
std::optional<std::string> device_serial_number(std::span<const std::byte> config);

/// The little-endian number of 2 or 4 bytes at `offset`, which must be in range.
std::uint32_t config_number(std::span<const std::byte> config, std::size_t offset, std::size_t bytes);

/// Where in an access of `bytes` at `offset` the register at `at` stands; nullopt if it is outside.
constexpr std::optional<std::size_t> index_within(std::uint64_t offset, std::size_t bytes, std::uint64_t at) {
  return offset <= at && at - offset < bytes ? std::optional<std::size_t>(at - offset) : std::nullopt;
}

} // namespace smartio::vfio
