#include "capabilities.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace smartio::vfio {
namespace {

constexpr std::size_t status = 0x06, pointer = 0x34, standard_size = 0x100, header_size = 0x40;
constexpr std::uint32_t status_capabilities = 0x10;
constexpr std::size_t least_size = 16; // of what follows a capability's offset

bool fits(std::size_t offset, std::size_t first, std::size_t end) {
  return offset >= first && offset <= end - least_size;
}

bool seen(const std::vector<Capability>& found, std::size_t offset) {
  return std::ranges::any_of(found, [offset](const Capability& c) { return c.offset == offset; });
}

void walk_standard(std::span<const std::byte> config, std::vector<Capability>& found) {
  if ((config_number(config, status, 2) & status_capabilities) == 0) return;
  std::size_t offset = std::to_integer<std::size_t>(config[pointer]) & ~3U;
  while (fits(offset, header_size, standard_size) && !seen(found, offset)) {
    found.push_back({std::to_integer<std::uint16_t>(config[offset]), static_cast<std::uint16_t>(offset), false});
    offset = std::to_integer<std::size_t>(config[offset + 1]) & ~3U;
  }
}

void walk_extended(std::span<const std::byte> config, std::vector<Capability>& found) {
  std::size_t offset = standard_size;
  while (fits(offset, standard_size, config.size()) && !seen(found, offset)) {
    const auto header = config_number(config, offset, 4);
    if (header == 0 || header == UINT32_MAX) return; // none, or the device is gone
    found.push_back({static_cast<std::uint16_t>(header), static_cast<std::uint16_t>(offset), true});
    offset = (header >> 20) & ~3U;
  }
}

} // namespace

std::uint32_t config_number(std::span<const std::byte> config, std::size_t offset, std::size_t bytes) {
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < bytes; ++i) number |= std::to_integer<std::uint32_t>(config[offset + i]) << (8 * i);
  return number;
}

std::vector<Capability> capabilities(std::span<const std::byte> config) {
  std::vector<Capability> found;
  if (config.size() < standard_size) return found;
  walk_standard(config, found);
  if (config.size() > standard_size) walk_extended(config, found);
  return found;
}

std::optional<Capability> find_capability(std::span<const std::byte> config, std::uint16_t id) {
  for (const auto& found : capabilities(config))
    if (!found.extended && found.id == id) return found;
  return std::nullopt;
}

std::optional<std::string> device_serial_number(std::span<const std::byte> config) {
  for (const auto& found : capabilities(config)) {
    if (!found.extended || found.id != capability::serial_number) continue;
    const auto low = config_number(config, found.offset + 4UL, 4), high = config_number(config, found.offset + 8UL, 4);
    if ((low == 0 && high == 0) || (low == UINT32_MAX && high == UINT32_MAX)) return std::nullopt;
    std::string text;
    for (const auto part : {high, low})
      for (int shift = 24; shift >= 0; shift -= 8)
        text += fmt::format("{}{:02x}", text.empty() ? "" : "-", (part >> shift) & 0xff);
    return text;
  }
  return std::nullopt;
}

} // namespace smartio::vfio
