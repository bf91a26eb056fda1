// Functions of the program that embeds a node. What they throw would end it from a thread of ours, where nobody can
// catch it.
#pragma once

#include <functional>
#include <string_view>

namespace smartio {

/// As `log`, but never throws.
inline std::function<void(int, std::string_view)> guarded_log(std::function<void(int, std::string_view)> log) {
  if (!log) return nullptr;
  return [log = std::move(log)](int level, std::string_view text) {
    try {
      log(level, text);
    } catch (...) {}
  };
}

} // namespace smartio
