// Times as RFC 3339 UTC text, seconds resolution.
#pragma once

#include <chrono>
#include <fmt/chrono.h>
#include <string>

namespace smartio::core {

inline std::string utc(std::chrono::system_clock::time_point time) {
  return fmt::format("{:%FT%T}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

} // namespace smartio::core
