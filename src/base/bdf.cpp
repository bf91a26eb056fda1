#include "bdf.hpp"

#include "text.hpp"

#include <fmt/format.h>

namespace smartio {

std::optional<Bdf> parse_bdf(std::string_view text) {
  // DOMAIN:bb:dd.f; only the domain's length varies (4 digits, more behind some bridges).
  constexpr std::size_t rest = sizeof(":bb:dd.f") - 1;
  if (text.size() < 4 + rest || text.size() > 8 + rest) return std::nullopt;
  const auto at = text.size() - rest;
  if (text[at] != ':' || text[at + 3] != ':' || text[at + 6] != '.') return std::nullopt;
  const auto domain = parse_number(text.substr(0, at), 16, UINT32_MAX);
  const auto bus = parse_number(text.substr(at + 1, 2), 16, 0xff);
  const auto device = parse_number(text.substr(at + 4, 2), 16, 0x1f);
  const auto function = parse_number(text.substr(at + 7), 16, 7);
  if (!domain || !bus || !device || !function) return std::nullopt;
  return Bdf{static_cast<std::uint32_t>(*domain), static_cast<std::uint8_t>(*bus), static_cast<std::uint8_t>(*device),
             static_cast<std::uint8_t>(*function)};
}

std::string to_string(const Bdf& bdf) {
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", bdf.domain, bdf.bus, bdf.device, bdf.function);
}

} // namespace smartio
