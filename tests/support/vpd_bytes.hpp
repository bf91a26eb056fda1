// Vital product data, as a board's maker writes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace testing {

inline std::string item(unsigned char tag, std::string_view data) {
  std::string text{static_cast<char>(tag), static_cast<char>(data.size() & 0xff), static_cast<char>(data.size() >> 8)};
  return text.append(data);
}
inline std::string field(std::string_view keyword, std::string_view data) {
  return std::string(keyword) + static_cast<char>(data.size()) + std::string(data);
}

/// A name, a read-only part with `fields`, a checksum and room behind that, a part that can be written, an end.
inline std::string vpd_with(const std::string& fields) {
  auto text = item(0x82, "A network card") + item(0x90, fields + field("RV", std::string(5, '\0')));
  std::uint8_t sum = 0;
  for (const char c : text) sum = static_cast<std::uint8_t>(sum + static_cast<std::uint8_t>(c));
  text[text.size() - 5] = static_cast<char>(-sum);
  return text + item(0x91, field("RW", std::string(20, '\0'))) + '\x78';
}

} // namespace testing
