// Vital Product Data (PCI Local Bus 3.0, appendix I; PCI Express 6.0, 6.27): what a maker writes on a board. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace smartio::vfio {

inline constexpr std::size_t largest_vpd = 32768; ///< bytes: an address of it has 15 bits

/// The serial number (SN of the read-only part), printable, without blanks around it. The bytes come from a device.
/// nullopt unless the checksum (RV) says so, which covers what stands before it; and if the number is empty, holds what
/// cannot be printed, or is nothing but zeros. What follows that part, an end tag included, does not matter.
std::optional<std::string> vpd_serial_number(std::span<const std::byte> vpd);

} // namespace smartio::vfio
