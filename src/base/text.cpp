#include "text.hpp"

#include <algorithm>

#include "result.hpp"

#include <charconv>

namespace smartio {

std::optional<std::uint64_t> parse_number(std::string_view text, int base, std::uint64_t limit) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value > limit) return std::nullopt;
  return value;
}

Result<std::uint64_t> parse_size(std::string_view text) {
  std::string_view digits = text;
  unsigned shift = 0;
  if (!digits.empty()) {
    switch (digits.back()) {
    case 'K':
    case 'k': shift = 10; break;
    case 'M':
    case 'm': shift = 20; break;
    case 'G':
    case 'g': shift = 30; break;
    default: break;
    }
    if (shift != 0) digits.remove_suffix(1);
  }
  const auto value = parse_number(digits, 10, UINT64_MAX >> shift);
  if (!value) return fail(Errc::bad_request, "'{}' is not a size: give bytes, or a number with K, M or G", text);
  return *value << shift;
}

std::string hyphenated(std::string name) {
  std::ranges::replace(name, '_', '-');
  return name;
}

std::pair<std::string, std::string> hyphenated_option(const std::string& word) {
  const auto end = std::min(word.find('='), word.size());
  if (!word.starts_with("--") || std::string_view(word).substr(0, end).find('_') == std::string_view::npos) return {};
  if (end + 1 == word.size()) return {}; // "--x_y=": to say that there is no value, where "" would take the next word
  return {hyphenated(word.substr(2, end - 2)), end < word.size() ? word.substr(end + 1) : ""};
}

std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return text;
}

} // namespace smartio
