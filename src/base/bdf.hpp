// The address of a PCI function as its host names it.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace smartio {

/// domain:bus:device.function. The domain has up to 32 bits (as /sys/bus/pci names it), the device 5, the function 3.
struct Bdf {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0, device = 0, function = 0;
  auto operator<=>(const Bdf&) const = default;
};

/// The full form, "0000:06:00.0", as in /sys/bus/pci/devices; nullopt for anything else, abbreviations included.
std::optional<Bdf> parse_bdf(std::string_view text);
std::string to_string(const Bdf& bdf); ///< "0000:06:00.0"

} // namespace smartio
