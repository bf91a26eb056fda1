#include "vpd.hpp"

#include "capabilities.hpp"

#include <algorithm>
#include <string_view>

namespace smartio::vfio {
namespace {

using Bytes = std::span<const std::byte>;

constexpr auto large = std::byte{0x80}, read_only = std::byte{0x90};
constexpr std::size_t large_header = 3, field_header = 3;

/// Nothing if there is no such part, or not all of it. The end tag is a small item, and no large one follows those.
Bytes read_only_fields(Bytes vpd) {
  std::size_t at = 0;
  while (at + large_header <= vpd.size() && (vpd[at] & large) != std::byte{0}) {
    const std::size_t size = config_number(vpd, at + 1, 2), begin = at + large_header;
    if (size > vpd.size() - begin) break;
    if (vpd[at] == read_only) return vpd.subspan(begin, size);
    at = begin + size;
  }
  return {};
}

/// The data of the first field with that keyword, if all of it is there.
std::optional<Bytes> find_field(Bytes fields, std::string_view keyword) {
  while (fields.size() >= field_header) {
    const auto size = std::to_integer<std::size_t>(fields[2]);
    if (size > fields.size() - field_header) return std::nullopt;
    const auto data = fields.subspan(field_header, size);
    if (fields[0] == std::byte(keyword[0]) && fields[1] == std::byte(keyword[1])) return data;
    fields = fields.subspan(field_header + size);
  }
  return std::nullopt;
}

/// All bytes up to the first one of RV add up to 0.
bool adds_up(Bytes vpd, const std::byte* checksum) {
  unsigned sum = 0;
  for (const auto byte : vpd.first(static_cast<std::size_t>(checksum - vpd.data()) + 1))
    sum += std::to_integer<unsigned>(byte);
  return (sum & 0xff) == 0;
}

/// Padded with blanks or, in some, with zeros.
std::optional<std::string> as_serial(Bytes data) {
  std::string text(data.size(), '\0');
  std::ranges::transform(data, text.begin(), [](std::byte b) { return std::to_integer<char>(b); });
  constexpr std::string_view padding(" \0", 2);
  text.erase(text.find_last_not_of(padding) + 1);
  text.erase(0, text.find_first_not_of(' '));
  const bool printable = std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
  if (!printable || text.find_first_not_of("0 ") == text.npos) return std::nullopt;
  return text;
}

} // namespace

std::optional<std::string> vpd_serial_number(Bytes vpd) {
  const auto fields = read_only_fields(vpd);
  const auto checksum = find_field(fields, "RV"), serial = find_field(fields, "SN");
  if (!checksum || checksum->empty() || !serial || serial->data() > checksum->data()) return std::nullopt;
  return adds_up(vpd, checksum->data()) ? as_serial(*serial) : std::nullopt;
}

} // namespace smartio::vfio
