// What every refusal is.
#pragma once

#include <smartio/error.hpp>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

namespace smartio::test {

/// Something, on one line, that changes nothing of a terminal, and not a whole file.
inline bool is_sentence(std::string_view text) {
  const auto is_control = [](unsigned char c) { return c < ' ' || c == 0x7f; };
  return !text.empty() && text.size() < 65536 && std::ranges::none_of(text, is_control);
}

inline void check_sentence(const std::string& text) {
  if (!is_sentence(text)) std::abort();
}

/// Whether it is no error; one is a sentence.
template <class T> bool check_result(const Result<T>& result) {
  if (!result) check_sentence(to_string(result.error()));
  return result.has_value();
}

} // namespace smartio::test
