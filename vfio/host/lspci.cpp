#include "lspci.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>

namespace smartio::vfio::host {

std::string hexdump(const Bdf& bdf, std::string_view name, std::span<const std::byte> config) {
  constexpr std::size_t per_line = 16;
  // A line of the name that looked like bytes would be taken for config space.
  std::string title(name);
  std::ranges::replace_if(
      title, [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  std::string text = to_string(bdf) + ' ' + title + '\n';
  for (std::size_t at = 0; at < config.size(); at += per_line) {
    fmt::format_to(std::back_inserter(text), "{:02x}:", at);
    for (const auto byte : config.subspan(at, std::min(per_line, config.size() - at)))
      fmt::format_to(std::back_inserter(text), " {:02x}", std::to_integer<unsigned>(byte));
    text += '\n';
  }
  return text + '\n';
}

} // namespace smartio::vfio::host
