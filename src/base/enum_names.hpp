// Enumerations with names: a table in the order of the enumerators, the first of which is 0.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace smartio {

/// "unknown" for what is none of them.
template <class Enum, std::size_t n>
constexpr std::string_view name_in(const std::array<std::string_view, n>& names, Enum value) noexcept {
  const auto index = static_cast<std::size_t>(value);
  return index < n ? names[index] : "unknown";
}

template <class Enum, std::size_t n>
constexpr std::optional<Enum> value_in(const std::array<std::string_view, n>& names, std::string_view name) noexcept {
  const auto found = std::ranges::find(names, name);
  if (found == names.end()) return std::nullopt;
  return static_cast<Enum>(found - names.begin());
}

} // namespace smartio
